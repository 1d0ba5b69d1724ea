"""Candidate thresholds in one order, safest first: a path through all exits' thresholds at once.

    nobody leaves early -> ... one exit's threshold lowered a little ... -> everybody leaves at the first exit

Each step lowers the threshold that saves the most cost for the errors it adds, looking as far ahead as that goes on;
thresholds only ever fall, so errors rise almost steadily and a certificate's walk is not stopped by a chance dip early
on. Each step looks once at every sample at every exit, so more exits cost no more than that (a grid of all thresholds
would be its size to the power of the exits). Letters: E exits, N samples, P candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.exits.thresholds import exit_taken

# A step adds at most this share of errors, or of those added so far, and lets at most this share of
# the samples leave, where confidences are that fine. Smaller steps gain next to nothing: less than
# 0.2 of a point of the FLOPs at a risk of 1 % on 5,000 Fashion-MNIST images.
_ERROR_STEP, _ERROR_GROWTH, _LEAVING_STEP = 0.0005, 0.05, 0.05


class _Step(NamedTuple):
    """Lower the threshold of one exit."""

    saved_per_error: float
    exit: int
    threshold: float


def candidate_path(
    confidence: NDArray[np.float64], loss: NDArray[np.bool_], cost: ArrayLike
) -> NDArray[np.float64]:
    """Thresholds of all exits but the last, (P, E - 1), from safest to greediest; infinity lets nobody leave.

    confidence: (E, N); loss: (E, N), whether leaving at each exit is an error; cost: (E,) or (E, N),
    what leaving at each exit costs in all, which never falls from exit to exit. The first candidate
    lets nobody leave early, the last one all of these samples at the first exit. Raises ValueError
    on unequal shapes, no samples and a cost that falls.
    """
    exits, count = confidence.shape
    costs = np.asarray(cost, np.float64)
    if costs.shape == (exits,):
        costs = np.repeat(costs[:, None], count, axis=1)
    if loss.shape != confidence.shape or costs.shape != confidence.shape or count == 0:
        raise ValueError(f"shapes {confidence.shape}, {loss.shape} and {costs.shape} do not fit")
    if (np.diff(costs, axis=0) < 0).any():
        raise ValueError("cost: leaving later is cheaper")
    orders = np.argsort(-confidence[:-1], axis=1, kind="stable")
    thresholds = np.full(exits - 1, np.inf)
    path = [thresholds]
    while (step := _best_step(confidence, loss, costs, orders, thresholds)) is not None:
        thresholds = thresholds.copy()
        thresholds[step.exit] = step.threshold
        path.append(thresholds)
    return np.stack(path)


def cheapest(accuracy: NDArray[np.float64], mean_cost: NDArray[np.float64], max_drop: float) -> int:
    """The candidate of least mean cost whose accuracy is at most max_drop (a share) under the first one's.

    accuracy, mean_cost: (P,), what each candidate of a path gave; the safer one where two cost the same.
    """
    within = np.flatnonzero(accuracy >= accuracy[0] - max_drop)
    return int(within[mean_cost[within].argmin()])


def _best_step(
    confidence: NDArray[np.float64],
    loss: NDArray[np.bool_],
    costs: NDArray[np.float64],
    orders: NDArray[np.intp],
    thresholds: NDArray[np.float64],
) -> _Step | None:
    """The next step of the path; None at its end."""
    exits, count = confidence.shape
    columns = np.arange(count)
    taken = exit_taken(confidence, thresholds)
    so_far = int(loss[taken, columns].sum()) - int(loss[-1].sum())
    most_errors = max(_ERROR_STEP * count, _ERROR_GROWTH * so_far)
    behind = np.full(count, exits - 1)  # where each sample leaves that goes on at exit k
    steps = []
    for k in reversed(range(exits - 1)):
        moves, order = taken > k, orders[k]
        saved = np.where(moves, costs[behind, columns] - costs[k], 0.0)[order]
        added = np.where(moves, loss[k].astype(np.int64) - loss[behind, columns], 0)[order]
        found = _step_at(k, confidence[k][order], moves[order], saved, added, most_errors)
        if found is not None:
            steps.append(found)
        behind = np.where(confidence[k] >= thresholds[k], k, behind)
    return max(steps, default=None)


def _step_at(
    exit_index: int,
    confidence: NDArray[np.float64],
    moves: NDArray[np.bool_],
    saved: NDArray[np.float64],
    added: NDArray[np.int64],
    most_errors: float,
) -> _Step | None:
    """The best step at one exit, of N samples in the order of falling confidence; None where nobody would move.

    moves: who would leave here instead of later; saved, added: the cost and errors that this changes.
    """
    leaving = moves.cumsum()
    # Samples of equal confidence leave together.
    levels = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True) & (leaving > 0))
    if len(levels) == 0:
        return None
    gain, errors, leaving = saved.cumsum()[levels], added.cumsum()[levels], leaving[levels]
    # Errors taken back count as none: there is no better than free.
    rate = gain / np.maximum(errors, 1e-9)
    furthest = int(rate.argmax())
    short = (errors <= most_errors) & (leaving <= _LEAVING_STEP * len(confidence))
    within = np.flatnonzero(short[: furthest + 1])
    at = int(within[-1]) if len(within) else 0
    return _Step(float(rate[furthest]), exit_index, float(confidence[levels[at]]))
