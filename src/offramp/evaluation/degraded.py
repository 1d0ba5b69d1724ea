"""What a degraded answer is worth: the accuracy of each early exit where the tiers behind it are gone.

A certificate is of samples that go as deep as the policy sends them. Where a hop fails, the exit at hand answers those
that it was not sure of, which are the hard ones: so their accuracy is measured by itself, on the same samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offramp.evaluation.calibration import Observed, exits_taken, trace
from offramp.evaluation.goals import Reached
from offramp.evaluation.intervals import share


class Degraded(NamedTuple):
    """Exit `exit` answers whatever reaches it. handed_on: how many it would not have answered by the policy.

    accuracy: of these alone, with the ends of its 95 % interval; all_accuracy: of all samples, those included that left
    before. None where nobody is handed on.
    """

    exit: int
    handed_on: int
    accuracy: float | None
    interval: tuple[float, float] | None
    all_accuracy: float


def degraded_answers(reached: Reached, observed: Observed) -> list[Degraded]:
    """One for each early exit; none where there are no labels. observed: samples that nothing was fitted on."""
    if observed.labels is None:
        return []
    traced = trace(reached.fitted.base, observed)
    taken = exits_taken(reached.fitted, traced)[reached.measured.candidate]
    columns = np.arange(len(observed))
    found = []
    for k in range(len(traced.labels) - 1):
        handed = taken > k
        right = traced.labels[k] == observed.labels
        count, hits = int(handed.sum()), int(right[handed].sum())
        estimate = share(hits, count) if count else None
        everybody = traced.labels[np.minimum(taken, k), columns] == observed.labels
        found.append(
            Degraded(
                k,
                count,
                None if estimate is None else estimate.value,
                None if estimate is None else (estimate.low, estimate.high),
                float(everybody.mean()),
            )
        )
    return found
