"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2), one temperature an exit."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.exits.confidence import softmax


def fit_temperature(
    logits: ArrayLike,
    labels: NDArray[np.int64],
    *,
    bounds: tuple[float, float] = (0.05, 20.0),
) -> float:
    """The temperature under which the labels are most likely, within bounds.

    logits: (N, C); labels: (N,). The negative log-likelihood is convex in the inverse temperature
    b, with the derivative mean(E_p[z] - z_label), so bisection on its sign finds the minimum.
    Raises ValueError where the lengths differ or there are no samples.
    """
    z = np.asarray(logits, np.float64)
    if len(z) != len(labels) or len(z) == 0:
        raise ValueError(f"labels: {len(labels)} for {len(z)} logits")
    of_label = z[np.arange(len(z)), labels]
    low, high = 1.0 / bounds[1], 1.0 / bounds[0]
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((softmax(z, 1.0 / middle) * z).sum(1) - of_label).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2.0 / (low + high)
