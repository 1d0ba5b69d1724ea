"""Verbs that need an optional extra say so in one line where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offramp.errors import InvalidInput

_PACKAGES = {
    "train": ("torch", "lightning", "onnx", "onnxscript", "onnx_ir", "rich"),
    "links": ("yaml",),
    "demo": ("matplotlib",),
}


@contextmanager
def needs_extra(verb: str, extra: str) -> Iterator[None]:
    """Imports inside raise InvalidInput where a package of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _PACKAGES[extra]:
            raise
        message = (
            f"needs the extra `{extra}` ({exc.name} is missing): "
            f"pip install '.[{extra}]' in the source folder"
        )
        raise InvalidInput(verb, message) from exc
