"""From logits to probabilities. Letters: N samples, C classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits divided by a temperature above 0: (N, C) -> (N, C), rows sum to 1.

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    scaled = np.divide(logits, temperature, dtype=np.float64)
    # reduce() of the ufuncs, for max() and sum() take as long again to get there
    powers = np.exp(scaled - np.maximum.reduce(scaled, axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / np.add.reduce(powers, axis=-1, keepdims=True)
    return probabilities


def labels_of(probabilities: ArrayLike) -> NDArray[np.int64]:
    """The labels that probabilities give: (..., C) -> (...), the first of those that are equally likely.

    In float32, as which they leave a tier: an answer's label is the largest of what the answer shows.
    """
    return np.asarray(np.asarray(probabilities, np.float32).argmax(axis=-1), np.int64)


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """The logarithm of softmax(), finite where a probability would vanish: (N, C) -> (N, C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    below = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(axis=-1, keepdims=True)))
