"""Accuracy against cost: cascades from 'nobody leaves early' to 'everybody at the first exit'.

    samples to fit on --> path of joint thresholds, fixed --> some of its policies --> scored on other samples

A curve drawn by moving thresholds on the very samples that it reports is too good; so the path is
fixed on samples that are not reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.evaluation.calibration import (
    Fitted,
    Form,
    Observed,
    exits_taken,
    fit,
    never_early,
    trace,
)
from offramp.exits import ExitPolicy
from offramp.exits.candidates import cheapest


class Curve(NamedTuple):
    """A path of thresholds, safest first, and what each candidate gave on the samples fitted on."""

    fitted: Fitted
    accuracy: NDArray[np.float64]  # (P,)
    mean_cost: NDArray[np.float64]  # (P,)

    def cheapest(self, max_drop: float) -> ExitPolicy:
        """The candidate of least mean cost whose accuracy is at most max_drop (a share) under the first one's."""
        return self.fitted.policy(cheapest(self.accuracy, self.mean_cost, max_drop))

    def spread(self, points: int) -> tuple[ExitPolicy, ...]:
        """At most so many candidates, evenly spaced in mean cost, both ends among them."""
        wanted = np.linspace(self.mean_cost[0], self.mean_cost[-1], points)
        nearest = np.abs(self.mean_cost[:, None] - wanted).argmin(0)
        return tuple(
            replace(self.fitted.policy(k), name=f"candidate-{k}")
            for k in sorted(set(nearest.tolist()))
        )


def fit_curve(observed: Observed) -> Curve:
    """Max-probability cascades, their temperatures and thresholds fitted on labelled samples.

    Raises ValueError where there are no labels.
    """
    if observed.labels is None:
        raise ValueError("labels: a curve of accuracies needs them")
    fitted = fit(never_early(Form(name="cascade"), observed, ()), observed, "accuracy-drop")
    traced, columns = trace(fitted.base, observed), np.arange(len(observed))
    taken = exits_taken(fitted, traced)
    right = traced.labels[taken, columns] == observed.labels
    return Curve(fitted, right.mean(1), observed.cost[taken, columns].mean(1))
