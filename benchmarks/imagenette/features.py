"""What training starts from, computed once: both boundaries' features and the last exit's logits.

Kept in pieces of 1,000 images, 75 MB each, so that an interrupted call goes on where it was. The
pass runs in bfloat16; what is reported runs in float32 under onnxruntime.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.imagenette.network import weights_sha256
from offramp.data import ImageSet
from offramp.models import ExitNetwork

_PIECE, _BATCH = 1000, 50


@dataclass(frozen=True, slots=True)
class Cached:
    """Of N training images: features of both boundaries, the teacher's logits, labels."""

    features: Tensor  # (N, C, H, W) float16, at the device's exit
    deeper: Tensor  # (N, C, H, W) float16, at the fog's exit
    logits: Tensor  # (N, classes) float32
    labels: Tensor  # (N,) int64

    def batch(self, rows: Tensor) -> Cached:
        """These images, features in float32 and channels-last memory."""
        return Cached(
            self.features[rows].float().contiguous(memory_format=torch.channels_last),
            self.deeper[rows].float().contiguous(memory_format=torch.channels_last),
            self.logits[rows],
            self.labels[rows],
        )


def _key(network: ExitNetwork, images: ImageSet) -> str:
    places = [exit_.at for exit_ in network.exits]
    parts = [weights_sha256(), *places, images.name, *images.sha256.values()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@torch.no_grad()
def _piece(network: ExitNetwork, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    found: dict[str, list[NDArray[np.generic]]] = {"features": [], "deeper": [], "logits": []}
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH])
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(batch)
        for name, (tensor,) in zip(("features", "deeper"), outputs.features, strict=True):
            found[name].append(tensor.half().numpy())
        found["logits"].append(outputs.logits[-1].float().numpy())
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


def cached(network: ExitNetwork, images: ImageSet, rows: NDArray[np.int64], folder: Path) -> Cached:
    """These rows of a data set, after a pass through a network without codecs.

    rows: ascending. The pieces are of the whole set, whichever rows are asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fast = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pieces = []
    for start in range(0, len(images), _PIECE):
        path = folder / f"{_key(network, images)}-{start:05d}.npz"
        if not path.exists():
            temporary = path.with_suffix(".part.npz")
            np.savez(temporary, **_piece(fast, images.images[start : start + _PIECE]))  # type: ignore[arg-type]
            temporary.replace(path)
            print(f"features of images {start} to {start + _PIECE}: {path}", flush=True)
        with np.load(path, allow_pickle=False) as arrays:
            here = rows[(rows >= start) & (rows < start + _PIECE)] - start
            pieces.append([arrays[name][here] for name in ("features", "deeper", "logits")])
    features, deeper, logits = (
        torch.from_numpy(np.concatenate(of)) for of in zip(*pieces, strict=True)
    )
    return Cached(features, deeper, logits, torch.from_numpy(images.labels[rows]))
