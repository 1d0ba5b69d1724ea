"""The exit policy: a rule and, per exit, on or off, temperature and threshold.

Its id is its own hash. The same object decides in calibration, in evaluation and in every tier, so
one policy means one decision.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.exits.confidence import max_probability, softmax

RULES: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "max-probability": max_probability,
}


class Decision(NamedTuple):
    """What one exit says of N samples: who leaves, how sure it is, and calibrated probabilities."""

    leaves: NDArray[np.bool_]  # (N,)
    confidence: NDArray[np.float64]  # (N,)
    probabilities: NDArray[np.float64]  # (N, C)


@dataclass(frozen=True, kw_only=True)
class ExitSetting:
    """One exit of a policy.

    An exit that is off lets nobody leave, but its temperature still calibrates its answer.
    """

    on: bool = True
    temperature: float = 1.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature: {self.temperature} is not a number above 0")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold: {self.threshold} is not a number")


@dataclass(frozen=True, kw_only=True)
class ExitPolicy:
    """A named rule over the exits of one network; the last exit answers whatever is left.

    >>> policy = ExitPolicy(name="p", exits=(ExitSetting(threshold=0.9), ExitSetting()))
    >>> policy.decide(0, [[4.0, 0.0], [0.1, 0.0]]).leaves
    array([ True, False])
    """

    name: str
    rule: str = "max-probability"
    exits: tuple[ExitSetting, ...]

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule: {self.rule!r} is none of {', '.join(RULES)}")
        if not self.exits:
            raise ValueError("exits: a policy needs at least one")

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of rule and exits; the name is not part of it."""
        content = {"rule": self.rule, "exits": [asdict(setting) for setting in self.exits]}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def decide(self, exit_index: int, logits: ArrayLike) -> Decision:
        """Who leaves at this exit: logits (N, C) -> Decision of N. Everybody leaves at the last."""
        setting = self.exits[exit_index]
        probabilities = softmax(logits, setting.temperature)
        confidence = RULES[self.rule](probabilities)
        if exit_index == len(self.exits) - 1:
            leaves = np.ones(len(confidence), np.bool_)
        else:
            leaves = (confidence >= setting.threshold) & setting.on
        return Decision(leaves, confidence, probabilities)
