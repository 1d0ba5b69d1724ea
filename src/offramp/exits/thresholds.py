"""Thresholds that save the most while accuracy stays within a drop.

They are found by search on samples that training did not see. The outcome is the best of what was
tried on those samples, not a guarantee on others.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.exits.rules import NEVER

_COMBINATIONS = 10_000  # tried in all, shared evenly among the exits


class FittedThresholds(NamedTuple):
    """Thresholds of all exits but the last, and what they gave on the samples fitted on."""

    thresholds: tuple[float, ...]
    accuracy: float
    last_exit_accuracy: float
    exit_shares: tuple[float, ...]
    mean_cost: float


def exit_taken(confidence: NDArray[np.float64], thresholds: ArrayLike) -> NDArray[np.intp]:
    """The first exit whose confidence reaches its threshold, else the last.

    confidence: (E, N); thresholds: (E - 1,) -> (N,).
    """
    reached = confidence[:-1] >= np.asarray(thresholds, np.float64)[:, None]
    last = np.ones((1, confidence.shape[1]), np.bool_)
    return np.asarray(np.concatenate((reached, last)).argmax(0))


def fit_thresholds(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    cost: ArrayLike,
    *,
    max_drop: float,
) -> FittedThresholds:
    """The thresholds of least mean cost that keep the last exit's accuracy, less max_drop.

    confidence: (E, N) float; correct: (E, N) bool, whether each exit is right; cost: (E,), what
    leaving at each exit costs in all; max_drop: a share, 0.001 being a tenth of a point. Candidates
    are quantiles of the confidence at each exit. Never leaving is among them, so there always is a
    result. Raises ValueError on unequal shapes and a max_drop below 0.
    """
    exits, count = confidence.shape
    costs = np.asarray(cost, np.float64)
    if correct.shape != confidence.shape or costs.shape != (exits,):
        raise ValueError(f"shapes {confidence.shape}, {correct.shape} and {costs.shape} do not fit")
    floor = correct[-1].mean() - max_drop
    steps = max(2, int(_COMBINATIONS ** (1 / max(1, exits - 1))))
    grids = [
        np.append(np.quantile(at_exit, np.linspace(0, 1, steps - 1)), np.inf)
        for at_exit in confidence[:-1]
    ]
    columns = np.arange(count)
    best: tuple[float, float, tuple[float, ...]] | None = None
    for thresholds in product(*grids):
        taken = exit_taken(confidence, thresholds)
        accuracy = float(correct[taken, columns].mean())
        if accuracy < floor:
            continue
        candidate = (float(costs[taken].mean()), -accuracy, thresholds)
        if best is None or candidate < best:
            best = candidate
    if best is None:
        raise ValueError(f"max_drop: {max_drop} is below 0")
    mean_cost, negative_accuracy, found = best
    finite = tuple(float(t) if np.isfinite(t) else NEVER for t in found)
    shares = np.bincount(exit_taken(confidence, found), minlength=exits) / count
    return FittedThresholds(
        finite, -negative_accuracy, float(correct[-1].mean()), tuple(shares.tolist()), mean_cost
    )
