"""The bytes of manifest.json in a folder whose SHA256SUMS agrees: a bundle, or InvalidBundle."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.fuzz.places import EXAMPLE, MEMORY
from offramp.bundle import load_bundle
from offramp.bundle.loading import MANIFEST, SUMS
from offramp.errors import InvalidBundle

MESSAGE, BETWEEN, MOST_BYTES = "json", b"", 8192
DICTIONARY = ("gate", "coding", "counts", "rule", "margin", "patience", "combine", "geometric-mean")
_STAGE = b"a stage"
_SHA256 = hashlib.sha256(_STAGE).hexdigest()


def _small() -> dict[str, Any]:
    """The example's manifest with stages of a few bytes, and without what is certain of other ones."""
    manifest: dict[str, Any] = json.loads((EXAMPLE / MANIFEST).read_text())
    for stage in manifest["network"]["stages"]:
        stage["sha256"] = _SHA256
    manifest["certificates"], manifest["provenance"] = [], {}
    return manifest


def seeds() -> list[bytes]:
    """The small one, one with tables and a gate, and one with a certificate."""
    small, coded, whole = _small(), _small(), json.loads((EXAMPLE / MANIFEST).read_text())
    codes = coded["network"]["boundaries"][1]["tensors"][0]
    codes["shape"] = [2, *codes["shape"][1:]]
    codes["bits"] = 1
    coded["network"]["boundaries"][1]["codec"].update(channels=2, bits=1)
    size_bytes = -(-math.prod(codes["shape"]) // 8)
    coded["costs"][1]["boundary_bytes"] = size_bytes
    coded["network"]["boundaries"][1]["coding"] = {"counts": [[4095, 1], [2048, 2048]]}
    coded["network"]["stages"][0]["gate"] = "gate_0"
    whole["provenance"] = {}
    return [json.dumps(one).encode() for one in (small, coded, whole)]


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """A folder with three stages, whose manifest is the input."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        folder = Path(temporary)
        for k in range(3):
            (folder / f"stage{k}.onnx").write_bytes(_STAGE)

        def load(data: bytes) -> None:
            (folder / MANIFEST).write_bytes(data)
            sums = {f"stage{k}.onnx": _SHA256 for k in range(3)}
            sums[MANIFEST] = hashlib.sha256(data).hexdigest()
            (folder / SUMS).write_text("".join(f"{s}  {n}\n" for n, s in sums.items()))
            with suppress(InvalidBundle):
                bundle = load_bundle(folder)
                bundle.manifest.policy("calibrated")
                bundle.stage_bytes(bundle.held[0])
                if load_bundle(folder).digest != bundle.digest:
                    raise AssertionError("two digests of one manifest")

        yield load
