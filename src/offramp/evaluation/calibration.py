"""A policy fitted on one half of unseen samples and measured on the other: certified, or within a budget.

    fitted on:    temperatures, weights --> candidates, safest first --+
                                                                      v
    measured on:  errors of every candidate --> certify: the last before one fails the test
                                            --> spend:   whether the most accurate within the budget stays within it

Everything is computed from what the bundle's own stages say (`offramp.evaluation.reference`), the codec's bits
included. Letters: E exits, N samples, C classes, P candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.exits import Combine, ExitPolicy, ExitSetting, fit_temperature, fit_weights
from offramp.exits.candidates import candidate_path
from offramp.exits.certificate import Risk, last_certified, losses
from offramp.exits.thresholds import exit_taken

_ONE_SIDED_95 = 1.645  # standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What all exits say of N samples.

    logits: E times (N, C); cost: (E, N), what each sample costs where it leaves at each exit; labels: (N,) where known;
    gates: (N,) an exit, or empty where there are none.
    """

    logits: tuple[NDArray[np.float32], ...]
    cost: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None
    gates: tuple[NDArray[np.floating] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.logits[-1])

    def take(self, rows: NDArray[np.int64]) -> Observed:
        """The same, these rows only."""
        return Observed(
            logits=tuple(at_exit[rows] for at_exit in self.logits),
            cost=self.cost[:, rows],
            labels=None if self.labels is None else self.labels[rows],
            gates=tuple(None if gate is None else gate[rows] for gate in self.gates),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The kind of policy that is wanted: its name, rule and combination, weighted alike or as learned."""

    name: str
    rule: str = "max-probability"
    combine: Combine = "none"
    learned_weights: bool = False

    def never_early(
        self, temperatures: Sequence[float], weights: Sequence[float] = ()
    ) -> ExitPolicy:
        """A policy of this form with every early exit off; a temperature an exit, and a weight or all 1."""
        pairs = zip(temperatures, weights or [1.0] * len(temperatures), strict=True)
        *early, last = (ExitSetting(on=False, temperature=t, weight=w) for t, w in pairs)
        exits = (*early, replace(last, on=True))
        return ExitPolicy(name=self.name, rule=self.rule, combine=self.combine, exits=exits)


class Fitted(NamedTuple):
    """A policy that lets nobody leave early, and thresholds to put into it, safest first."""

    base: ExitPolicy
    path: NDArray[np.float64]  # (P, E - 1); infinity lets nobody leave

    def policy(self, candidate: int) -> ExitPolicy:
        """The policy of one candidate."""
        settings = [
            replace(setting, on=True, threshold=float(threshold))
            if np.isfinite(threshold)
            else setting
            for setting, threshold in zip(self.base.exits, self.path[candidate], strict=False)
        ]
        return replace(self.base, exits=(*settings, self.base.exits[-1]))


class Traced(NamedTuple):
    """How sure every exit is of every sample, and the label that it gives, had none left before."""

    confidence: NDArray[np.float64]  # (E, N)
    labels: NDArray[np.int64]  # (E, N)


class Measured(NamedTuple):
    """One candidate on the samples that it was not fitted on. Accuracies are None without labels."""

    candidate: int
    candidates: int
    samples: int
    exit_shares: tuple[float, ...]
    mean_cost: float
    accuracy: float | None
    last_exit_accuracy: float | None


class Certified(NamedTuple):
    """What the walk along the candidates came to.

    measured: the greediest that passed, or the first one where none did; walked: the errors of every candidate that was
    tested, the one that failed included; passed: how many passed. Candidate 0 lets nobody leave early.
    """

    measured: Measured
    walked: tuple[int, ...]
    passed: int

    @property
    def errors(self) -> int:
        """Those of the measured candidate."""
        return self.walked[self.measured.candidate]

    @property
    def lets_some_leave(self) -> bool:
        """Whether anything beyond "nobody leaves early" is certified."""
        return self.passed > 1


class Spent(NamedTuple):
    """The most accurate candidate within a budget, and whether it stayed within it on other samples."""

    measured: Measured
    budget_met: bool


def trace(policy: ExitPolicy, observed: Observed) -> Traced:
    """Every exit's confidence and label of every sample, decided as the tiers decide."""
    decisions = list(policy.decisions(observed.logits, gates=observed.gates))
    return Traced(
        np.stack([decision.confidence for decision in decisions]),
        np.stack([decision.labels for decision in decisions]),
    )


def exits_taken(fitted: Fitted, traced: Traced) -> NDArray[np.int8]:
    """The exit at which each sample leaves under each candidate: (P, N)."""
    rows = (exit_taken(traced.confidence, thresholds) for thresholds in fitted.path)
    return np.stack([row.astype(np.int8) for row in rows])


def early_losses(traced: Traced, observed: Observed, risk: Risk) -> NDArray[np.bool_]:
    """(E, N) whether leaving at each exit is an error, held against the last exit's own label."""
    return losses(traced.labels, observed.logits[-1].argmax(1), observed.labels, risk)


def never_early(form: Form, observed: Observed, fallback: Sequence[float]) -> ExitPolicy:
    """A policy with every early exit off, its temperatures and learned weights fitted.

    fallback: the temperatures where there are no labels to fit them by. Raises ValueError where
    weights are to be learned without labels, or combine nothing.
    """
    if observed.labels is None:
        if form.learned_weights:
            raise ValueError("labels: weights are learned from them")
        return form.never_early(fallback)
    temperatures = [fit_temperature(at_exit, observed.labels) for at_exit in observed.logits]
    weights: Sequence[float] = ()
    if form.learned_weights:
        weights = fit_weights(
            observed.logits, observed.labels, form.combine, temperatures=temperatures
        )
    return form.never_early(temperatures, weights)


def fit(base: ExitPolicy, observed: Observed, risk: Risk) -> Fitted:
    """Candidates that save the most cost for the risk they bring, on these samples."""
    traced = trace(base, observed)
    loss = early_losses(traced, observed, risk)
    return Fitted(base, candidate_path(traced.confidence, loss, observed.cost))


def certify(
    fitted: Fitted, observed: Observed, risk: Risk, *, epsilon: float, delta: float
) -> Certified:
    """The greediest candidate whose risk is at most epsilon with confidence 1 - delta.

    observed: samples that nothing of `fitted` was fitted on.
    """
    traced = trace(fitted.base, observed)
    taken = exits_taken(fitted, traced)
    columns = np.arange(len(observed))
    errors = early_losses(traced, observed, risk)[taken, columns].sum(1)
    last = last_certified(errors, len(observed), epsilon, delta)
    measured = _measured(max(last, 0), taken, traced, observed)
    return Certified(measured, tuple(errors[: last + 2].tolist()), last + 1)


def fit_for_accuracy(base: ExitPolicy, observed: Observed) -> Fitted:
    """Candidates that save the most cost for the accuracy they lose; needs labels."""
    if observed.labels is None:
        raise ValueError("labels: accuracy needs them")
    traced = trace(base, observed)
    return Fitted(
        base, candidate_path(traced.confidence, traced.labels != observed.labels, observed.cost)
    )


def spend(fitted: Fitted, on: Observed, checked_on: Observed, *, budget: float) -> Spent:
    """The most accurate candidate whose mean cost is within the budget.

    It is chosen on the samples `on` that `fitted` was fitted on, with room for what other samples
    may cost more (one-sided 95 %), and is the cheapest of all where none is within. Whether it
    stays within is measured on `checked_on`.
    """
    traced = trace(fitted.base, on)
    taken = exits_taken(fitted, traced)
    columns = np.arange(len(on))
    costs = on.cost[taken, columns]
    error = np.sqrt(costs.var(1) * (1 / len(on) + 1 / len(checked_on)))
    right = (traced.labels[taken, columns] == on.labels).sum(1)
    within = np.flatnonzero(costs.mean(1) + _ONE_SIDED_95 * error <= budget)
    # Of equally accurate ones the cheapest, which comes last.
    best = within[right[within] == right[within].max()] if len(within) else [len(taken) - 1]
    chosen = int(best[-1])
    other = trace(fitted.base, checked_on)
    measured = _measured(chosen, exits_taken(fitted, other), other, checked_on)
    return Spent(measured, bool(measured.mean_cost <= budget))


def measure(fitted: Fitted, candidates: Sequence[int], observed: Observed) -> list[Measured]:
    """What each of these candidates does on samples that `fitted` was not fitted on."""
    traced = trace(fitted.base, observed)
    taken = exits_taken(fitted, traced)
    return [_measured(candidate, taken, traced, observed) for candidate in candidates]


def evenly_cheaper(fitted: Fitted, after: int, steps: int, observed: Observed) -> list[int]:
    """At most so many candidates behind one, each as much cheaper than the one before as can be; the last is the last.

    observed: the samples that `fitted` was fitted on.
    """
    taken = exits_taken(fitted, trace(fitted.base, observed))[after:]
    costs = observed.cost[taken, np.arange(len(observed))].mean(1)
    wanted = np.linspace(costs[0], costs[-1], steps + 1)[1:]
    found = {after + int(np.abs(costs - cost).argmin()) for cost in wanted} - {after}
    return sorted(found)


def _measured(
    candidate: int, taken: NDArray[np.int8], traced: Traced, observed: Observed
) -> Measured:
    columns = np.arange(len(observed))
    exits = taken[candidate]
    accuracy = last = None
    if observed.labels is not None:
        accuracy = float((traced.labels[exits, columns] == observed.labels).mean())
        last = float((observed.logits[-1].argmax(1) == observed.labels).mean())
    shares = np.bincount(exits, minlength=len(traced.confidence)) / len(observed)
    mean_cost = float(observed.cost[exits, columns].mean())
    return Measured(
        candidate, len(taken), len(observed), tuple(shares.tolist()), mean_cost, accuracy, last
    )
