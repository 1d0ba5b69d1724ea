"""Budgeted batch: a set of samples shares a budget, and the easy ones leave it to the hard ones.

    cost, budget -> shares r ** k whose mean cost is the budget -> how many leave at each exit
                 -> the surest leave a closed batch; the least sure of them is the exit's threshold

Source: Huang et al. 2018 (MSDNet, arXiv 1703.09844), budgeted batch classification, where exits
answer shares of a geometric distribution. Its ratio r may be above 1 here, so that a generous
budget is used up. Letters: N samples, E exits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.exits.rules import NEVER
from offramp.exits.thresholds import exit_taken

_STEEPEST = 60.0  # |log r|; beyond it all but exp(-60) of the samples are at one exit


class BudgetedThresholds(NamedTuple):
    """Thresholds of all exits but the last, and what they gave on the samples fitted on."""

    thresholds: tuple[float, ...]
    exit_shares: tuple[float, ...]
    mean_cost: float
    budget_met: bool


def geometric_shares(cost: ArrayLike, budget: float) -> NDArray[np.float64]:
    """The share that each exit answers: (E,), proportional to r ** k, of mean cost `budget`.

    cost: (E,), what leaving at each exit costs in all, which never falls. All are at the first exit
    where the budget does not reach beyond it, all at the last where nobody needs to leave early.
    Raises ValueError for a cost that falls or is not finite.

    >>> geometric_shares([0.0, 1.0, 2.0], 1.0).round(3).tolist()
    [0.333, 0.333, 0.333]
    """
    costs = np.asarray(cost, np.float64)
    if not np.isfinite(costs).all() or (np.diff(costs) < 0).any():
        raise ValueError(f"cost: {costs.tolist()} falls or is not finite")
    order = np.arange(len(costs), dtype=np.float64)
    if not costs[0] < budget < costs[-1]:
        return np.asarray(order == (order[-1] if budget >= costs[-1] else 0), np.float64)

    def shares(log_ratio: float) -> NDArray[np.float64]:
        powers = np.exp(log_ratio * order - max(0.0, log_ratio * order[-1]))
        return np.asarray(powers / powers.sum())

    low, high = -_STEEPEST, _STEEPEST
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if shares(middle) @ costs > budget else (middle, high)
    return shares(low)


@dataclass(frozen=True, kw_only=True)
class ClosedBatch:
    """A batch that is decided as a whole: who leaves at an exit depends on the others in it.

    cost: (E,), what leaving at each exit costs one sample in all; budget: for all samples together.

    >>> ClosedBatch(samples=2, cost=(1.0, 3.0), budget=4.0).exits(np.array([[0.6, 0.9], [1, 1]]))
    array([1, 0])
    """

    samples: int
    cost: tuple[float, ...]
    budget: float

    @property
    def budget_met(self) -> bool:
        """Whether all of them leaving at the first exit is within the budget."""
        return self.samples * self.cost[0] <= self.budget

    @cached_property
    def going_on(self) -> tuple[int, ...]:
        """How many samples go on after each exit, rounded down."""
        shares = geometric_shares(self.cost, self.budget / max(1, self.samples))
        beyond = 1 - np.cumsum(shares)
        # A whole number may be missed by the last bits of the ratio.
        return tuple(int(np.round(self.samples * share, 9)) for share in np.append(beyond[:-1], 0))

    def leaving(self, exit_index: int, confidence: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of those still there leave: the surest, the earlier one where two are alike. (n,) -> (n,)."""
        leaves = np.ones(len(confidence), np.bool_)
        count = max(0, len(confidence) - self.going_on[exit_index])
        leaves[np.argsort(-confidence, kind="stable")[count:]] = False
        return leaves

    def exits(self, confidence: NDArray[np.float64]) -> NDArray[np.int64]:
        """Where each sample leaves: (E, N) -> (N,). What an exit says of samples that left before is not looked at."""
        taken = np.full(self.samples, len(self.cost) - 1, np.int64)
        there = np.arange(self.samples)
        for k, at_exit in enumerate(confidence):
            leaves = self.leaving(k, at_exit[there])
            taken[there[leaves]] = k
            there = there[~leaves]
        return taken


def budgeted_thresholds(
    confidence: NDArray[np.float64], cost: ArrayLike, budget: float
) -> BudgetedThresholds:
    """Thresholds under which these samples cost at most `budget` each, on average.

    confidence: (E, N), of samples that training did not see; cost: (E,), what leaving at each exit
    costs in all. Where samples are equally sure they leave together, which costs less than the
    budget allows. budget_met is False where even leaving all at the first exit costs more, which is
    then what the thresholds do. Raises ValueError on unequal shapes, no samples, a confidence or
    cost that is not finite and a cost that falls.
    """
    costs = np.asarray(cost, np.float64)
    exits, count = confidence.shape
    if costs.shape != (exits,) or count == 0 or not np.isfinite(confidence).all():
        raise ValueError(
            f"confidence: {confidence.shape}, not {len(costs)} exits of finite numbers"
        )
    batch = ClosedBatch(samples=count, cost=tuple(costs.tolist()), budget=budget * count)
    taken = batch.exits(confidence)
    thresholds = []
    for k in range(exits - 1):
        leaving = confidence[k, taken == k]
        if len(leaving) == 0:
            thresholds.append(NEVER)
        elif batch.going_on[k] == 0:
            thresholds.append(-NEVER)
        else:
            thresholds.append(float(leaving.min()))
    taken = exit_taken(confidence, thresholds)
    shares = np.bincount(taken, minlength=exits) / count
    mean_cost = float(costs[taken].mean())
    return BudgetedThresholds(
        tuple(thresholds), tuple(shares.tolist()), mean_cost, batch.budget_met
    )
