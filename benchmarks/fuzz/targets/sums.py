"""The bytes of SHA256SUMS beside the example's manifest: a bundle of which no stage is here, or InvalidBundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fuzz.places import EXAMPLE, MEMORY
from offramp.bundle import load_bundle
from offramp.bundle.loading import MANIFEST, SUMS
from offramp.errors import InvalidBundle

MESSAGE, BETWEEN, MOST_BYTES = None, b"", 1024
DICTIONARY = ("manifest.json", "stage0.onnx", "../", "  ")


def seeds() -> list[bytes]:
    """That of the example."""
    return [(EXAMPLE / SUMS).read_bytes()]


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """A folder without stages."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        folder = Path(temporary)
        shutil.copyfile(EXAMPLE / MANIFEST, folder / MANIFEST)

        def load(data: bytes) -> None:
            (folder / SUMS).write_bytes(data)
            try:
                load_bundle(folder)
            except InvalidBundle:
                return
            raise AssertionError("a bundle without a stage was taken")

        yield load
