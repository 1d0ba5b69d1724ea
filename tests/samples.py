"""Random samples of whatever form a network takes."""

from __future__ import annotations

import numpy as np

from offramp.wire import TensorSpec


def samples_for(takes: TensorSpec, count: int) -> np.ndarray:
    """(count, ...): normal floats, bytes, or token ids below 20; the same ones for the same count."""
    chance = np.random.default_rng(count)
    shape = (count, *takes.shape)
    if takes.dtype == "float32":
        return chance.normal(size=shape).astype(np.float32)
    return chance.integers(0, 256 if takes.dtype == "uint8" else 20, shape).astype(takes.dtype)
