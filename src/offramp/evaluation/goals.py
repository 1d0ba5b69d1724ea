"""What a calibration is to reach: a bounded risk, or a cost within a budget. Two classes of one shape.

    RiskBound   the cheapest policy whose risk is at most epsilon, with confidence 1 - delta
    Budget      the most accurate policy whose mean cost is at most so much

Each fits candidates on one set of samples and judges on another (`offramp.evaluation.calibration`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from offramp.errors import InvalidInput
from offramp.evaluation.calibration import (
    Fitted,
    Measured,
    Observed,
    certify,
    fit,
    fit_for_accuracy,
    spend,
)
from offramp.exits import ExitPolicy
from offramp.exits.certificate import Risk, fewest_samples, most_errors, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a goal came to: a policy, and what was seen of it where it was not fitted.

    is_met: whether it does what was asked; verdict: that in words; figures: more, for machines;
    errors: where a risk was bounded, those of the policy; fitted: what the policy is a candidate of.
    """

    policy: ExitPolicy
    fitted: Fitted
    measured: Measured
    is_met: bool
    verdict: str
    figures: dict[str, Any]
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskBound:
    """At most this risk with this confidence. Raises InvalidInput for what are no shares between 0 and 1."""

    policy_name: ClassVar[str] = "certified"
    risk: Risk
    epsilon: float
    confidence: float

    def __post_init__(self) -> None:
        for flag, value in (("--max-drop", self.epsilon), ("--confidence", self.confidence)):
            if not 0 < value < 1:
                raise InvalidInput(flag, f"{value} is no share between 0 and 1")

    @property
    def delta(self) -> float:
        """The chance of a wrong certificate, without the noise of a binary fraction."""
        return round(1 - self.confidence, 12)

    def check(self, to_check: int, of: int, *, labelled: bool) -> None:
        """Pass where so many samples to certify on, of so many, can do. Raises InvalidInput naming the flag."""
        if self.risk == "accuracy-drop" and not labelled:
            text = "accuracy-drop needs labels, of which there are none; disagreement needs none"
            raise InvalidInput("--risk", text)
        fewest = fewest_samples(self.epsilon, self.delta)
        if to_check == of:
            raise InvalidInput("--fit-share", f"leaves none of {of:,} samples to fit on")
        if to_check < fewest:
            text = (
                f"{self.epsilon:g} with confidence {self.confidence:g} needs at least {fewest:,} samples "
                f"to certify on, none of them an error; here are {to_check:,} of {of:,}"
            )
            raise InvalidInput("--max-drop", text)

    def reach(
        self, base: ExitPolicy, to_fit: Observed, to_check: Observed, _whole: float
    ) -> Reached:
        """The greediest certified candidate; met where it lets anybody leave early."""
        fitted = fit(base, to_fit, self.risk)
        found = certify(fitted, to_check, self.risk, epsilon=self.epsilon, delta=self.delta)
        most = most_errors(len(to_check), self.epsilon, self.delta)
        bound = f"{self.risk} at most {percent(self.epsilon)} with confidence {percent(self.confidence)}"
        may_be = f"errors of {len(to_check):,}, where {most:,} may be"
        verdict = f"certified: {bound} ({found.errors:,} {may_be})"
        if not found.lets_some_leave:
            beyond = 'nothing beyond "nobody leaves early"' if found.passed else "nothing"
            verdict = f"{beyond} can be certified as {bound}: the next makes {found.walked[-1]:,} {may_be}"
        return Reached(
            policy=fitted.policy(found.measured.candidate),
            fitted=fitted,
            measured=found.measured,
            is_met=found.lets_some_leave,
            verdict=verdict,
            figures={"most_errors": most, "walked": list(found.walked)},
            errors=found.errors,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most this mean cost of a sample, or this share of the whole.

    Raises InvalidInput for what is no number from 0.
    """

    policy_name: ClassVar[str] = "budget"
    amount: float
    is_share: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount >= 0):
            raise InvalidInput("--max-cost", f"{self.amount} is no cost")

    @classmethod
    def parsed(cls, text: str) -> Budget:
        """Of a number, or of a percentage of the whole: "12e6", "50%"."""
        try:
            if text.endswith("%"):
                return cls(amount=float(text[:-1]) / 100, is_share=True)
            return cls(amount=float(text))
        except ValueError as exc:
            raise InvalidInput(
                "--max-cost", f"{text!r} is neither a number nor a percentage"
            ) from exc

    def check(self, to_check: int, of: int, *, labelled: bool) -> None:
        """Pass where there are labelled samples on both sides. Raises InvalidInput naming the flag."""
        if not labelled:
            raise InvalidInput(
                "--max-cost", "the best accuracy needs labels, of which there are none"
            )
        if not 0 < to_check < of:
            text = f"{of:,} samples are too few to fit on some and check on others"
            raise InvalidInput("--max-cost", text)

    def reach(
        self, base: ExitPolicy, to_fit: Observed, to_check: Observed, whole: float
    ) -> Reached:
        """The most accurate candidate within the budget; the cheapest of all where there is none."""
        limit = self.amount * whole if self.is_share else self.amount
        fitted = fit_for_accuracy(base, to_fit)
        found = spend(fitted, to_fit, to_check, budget=limit)
        cost = found.measured.mean_cost
        verdict = f"budget_met={str(found.budget_met).lower()}: {cost:,.1f} of {limit:,.1f}"
        return Reached(
            policy=fitted.policy(found.measured.candidate),
            fitted=fitted,
            measured=found.measured,
            is_met=found.budget_met,
            verdict=verdict,
            figures={"budget": limit, "budget_met": found.budget_met},
        )
