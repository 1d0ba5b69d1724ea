"""Where exits pay, from what a probe at every candidate says of the same samples.

Greedy: of all candidates the one that lowers the expected cost most is added, with thresholds that
keep the accuracy within a drop, until no candidate lowers it further. That is count x M evaluations,
linear in the M candidates, where all subsets would be exponential. Source: Baccarelli et al. 2020,
Information Sciences 521.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What M candidates, in network order, and the last exit say of N samples, and what they cost.

    confidence, correct: (M, N). last_correct: (N,). cost: (M,), of the backbone up to a candidate;
    own_cost: (M,), of an exit there by itself; whole_cost: of the whole backbone.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    last_correct: NDArray[np.bool_]
    cost: NDArray[np.float64]
    own_cost: NDArray[np.float64]
    whole_cost: float

    def __post_init__(self) -> None:
        candidates, samples = self.confidence.shape
        shapes = (self.correct.shape, self.last_correct.shape, self.cost.shape, self.own_cost.shape)
        if shapes != ((candidates, samples), (samples,), (candidates,), (candidates,)):
            raise ValueError(f"shapes {self.confidence.shape} and {shapes} do not fit")


class Step(NamedTuple):
    """One candidate added, and the expected cost and accuracy that the cascade then has."""

    candidate: int
    mean_cost: float
    accuracy: float


def _leaving(
    confidence: NDArray[np.float64], harm: NDArray[np.int64], allowed: float
) -> NDArray[np.bool_]:
    """Who leaves by the lowest threshold whose total harm is at most `allowed`: (N,) each."""
    order = np.argsort(-confidence, kind="stable")
    total = np.cumsum(harm[order])
    ranked = confidence[order]
    ends = np.append(ranked[1:] != ranked[:-1], True)  # equal confidences leave together
    within = np.flatnonzero(ends & (total <= allowed))
    threshold = ranked[within[-1]] if len(within) else np.inf
    return np.asarray(confidence >= threshold)


def expected(probed: Probed, chosen: Sequence[int], max_drop: float) -> tuple[float, float]:
    """Mean cost and accuracy of a cascade with exits at the chosen candidates, given in order.

    Each exit may use its even share of the drop, and what the exits before it left of theirs.
    """
    samples = probed.last_correct.size
    inside = np.ones(samples, np.bool_)
    cost = np.zeros(samples)
    correct = probed.last_correct.copy()
    own, used = 0.0, 0
    for rank, m in enumerate(chosen, 1):
        own += probed.own_cost[m]
        rows = np.flatnonzero(inside)
        if not rows.size:
            break
        harm = probed.last_correct[rows].astype(np.int64) - probed.correct[m, rows]
        allowed = max_drop * samples * rank / len(chosen) - used
        leaves = _leaving(probed.confidence[m, rows], harm, allowed)
        used += int(harm[leaves].sum())
        left = rows[leaves]
        cost[left], correct[left], inside[left] = (
            probed.cost[m] + own,
            probed.correct[m, left],
            False,
        )
    cost[inside] = probed.whole_cost + own
    return float(cost.mean()), float(correct.mean())


def place_greedily(probed: Probed, count: int, *, max_drop: float) -> tuple[Step, ...]:
    """The candidates to have exits at, in the order in which they were added; at most `count`.

    There are fewer, or none, where another would not lower the expected cost.
    """
    steps: list[Step] = []
    best = probed.whole_cost
    while len(steps) < count:
        chosen = {step.candidate for step in steps}
        found = [
            Step(m, *expected(probed, sorted({*chosen, m}), max_drop))
            for m in range(len(probed.cost))
            if m not in chosen
        ]
        step = min(found, key=lambda s: s.mean_cost, default=None)
        if step is None or step.mean_cost >= best:
            break
        steps.append(step)
        best = step.mean_cost
    return tuple(steps)
