"""How sure an exit is: one function a rule, from probabilities to a number.

It grows with certainty. Letters: N samples, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits divided by a temperature above 0: (N, C) -> (N, C), rows sum to 1.

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def max_probability(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest probability of each row: (N, C) -> (N,) in [1 / C, 1]."""
    return np.asarray(probabilities.max(axis=-1))
