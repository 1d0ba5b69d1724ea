"""The best policy that hindsight could have chosen: every joint threshold of a grid, on the very samples reported.

    confidence --levels of each exit--> cells of a joint histogram --sums along its axes--> mean of every combination

A grid of T levels for each of E - 1 early exits has T ** (E - 1) combinations; each costs a cell and not a pass over
the samples, so that a million of them take a second. Letters: E exits, N samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST_CELLS, _MOST_LEVELS = 1_000_000, 200


def levels_of(confidence: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Candidate thresholds of each early exit: quantiles of its confidence (E, N), as many as the grid has room for."""
    early = confidence[:-1]
    room = min(_MOST_LEVELS, int(_MOST_CELLS ** (1 / len(early))) - 1)
    return [np.unique(np.quantile(at, np.linspace(0, 1, room), method="lower")) for at in early]


def grid_means(
    confidence: NDArray[np.float64], values: NDArray[np.float64], levels: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The mean over N samples of what each has at the exit where it leaves, for every combination of thresholds.

    confidence, values: (E, N); levels: of each early exit, rising. The result has an axis an early exit, of its levels
    and then "never".
    """
    shape = tuple(len(of_exit) + 1 for of_exit in levels)
    # How many levels a confidence reaches: it leaves under level t where that is above t.
    reached = [
        np.searchsorted(of_exit, at, side="right")
        for of_exit, at in zip(levels, confidence, strict=False)
    ]
    total = np.zeros(shape)
    for k, of_exit in enumerate(values):
        early = min(k + 1, len(levels))
        cells = np.ravel_multi_index(tuple(reached[:early]), shape[:early])
        counted = np.bincount(cells, weights=of_exit, minlength=int(np.prod(shape[:early])))
        sums = counted.reshape(shape[:early])
        for axis in range(k if k < len(levels) else early):
            sums = sums.cumsum(axis)  # those that went on at an earlier exit
        if k < len(levels):
            sums = sums.sum(k, keepdims=True) - sums.cumsum(k)  # and leave at this one
        total += sums.reshape(sums.shape + (1,) * (len(shape) - early))
    return np.asarray(total / confidence.shape[1])


def least_cost(
    confidence: NDArray[np.float64],
    loss: NDArray[np.bool_],
    cost: NDArray[np.float64],
    epsilon: float,
) -> tuple[float, int]:
    """The least mean cost of any combination whose risk is at most epsilon, and how many were tried.

    confidence, loss, cost: (E, N).
    """
    levels = levels_of(confidence)
    risk = grid_means(confidence, loss.astype(np.float64), levels)
    costs = grid_means(confidence, cost, levels)
    # Sums of ones, so that a tenth of a sample is nobody.
    allowed = risk <= epsilon + 0.1 / confidence.shape[1]
    return float(costs[allowed].min()), costs.size
