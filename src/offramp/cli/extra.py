"""Verbs that need an optional extra say so in one line where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offramp.errors import InvalidInput

_TRAIN = ("torch", "lightning", "onnx", "onnxscript", "onnx_ir", "rich")


@contextmanager
def needs_train_extra(verb: str) -> Iterator[None]:
    """Imports inside raise InvalidInput where a package of the extra `train` is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _TRAIN:
            raise
        message = (
            f"needs the extra `train` ({exc.name} is missing): "
            "pip install '.[train]' in the source folder"
        )
        raise InvalidInput(verb, message) from exc
