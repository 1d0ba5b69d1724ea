"""A new bundle's folder: written beside its place, and there in one rename or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offramp.errors import InvalidInput


def check_new(out: Path) -> None:
    """Pass where nothing is there, or an empty folder. Raises InvalidInput."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput("--out", f"{out} is not empty")


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """An empty folder that becomes `out` where the block ends without an error, and else is gone.

    Raises InvalidInput where `out` is there and not an empty folder.
    """
    out = out.resolve()  # a rename replaces an empty folder, but not a link to one
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary, out.name)  # in it, for its own mode is 0700
        folder.mkdir()
        yield folder
        folder.rename(out)
