"""The exit policy: a rule, a combination and, per exit, on or off, temperature, threshold and weight.

    logits --temperature--> probabilities --combination--> answer --rule--> confidence >= threshold: leaves
                                              ^                ^
                                              +---- state -----+   what the exit before left, if anything

Its id is its own hash. The same object decides in calibration, in evaluation and in every tier, so
one policy means one decision. The state is of the precision in which it travels, also within a
tier. Letters: N samples, C classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.errors import InvalidInput
from offramp.exits.combination import COMBINATIONS, Combine
from offramp.exits.confidence import labels_of
from offramp.exits.rules import RULES, Evidence
from offramp.exits.rules.rule import Memory

BASELINES = ("first-exit", "final-exit")  # names of policies that a deployment is compared with
_LEAST_TEMPERATURE = 1e-6  # logits over less would overflow
State = NDArray[np.void]  # (N,) records of ExitPolicy.state_type()


class Decision(NamedTuple):
    """What one exit says of N samples: who leaves, how sure it is, calibrated probabilities, and what they carry on."""

    leaves: NDArray[np.bool_]  # (N,)
    confidence: NDArray[np.float64]  # (N,)
    probabilities: NDArray[np.float64]  # (N, C), combined where the policy combines
    state: State | None = None  # (N,); None where the policy declares none

    @property
    def labels(self) -> NDArray[np.int64]:
        """What it answers: (N,)."""
        return labels_of(self.probabilities)


@dataclass(frozen=True, kw_only=True)
class ExitSetting:
    """One exit of a policy.

    An exit that is off lets nobody leave, but its temperature still calibrates its answer, which counts in a run and in
    a combination. weight: in a combination; 0 leaves the exit out.
    """

    on: bool = True
    temperature: float = 1.0
    threshold: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "threshold", "weight"):
            # A policy's id is of numbers as JSON writes them, and 2 is not 2.0 there.
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (math.isfinite(self.temperature) and self.temperature >= _LEAST_TEMPERATURE):
            raise ValueError(
                f"temperature: {self.temperature} is not a number from {_LEAST_TEMPERATURE}"
            )
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold: {self.threshold} is not a number")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight: {self.weight} is not a number from 0")


@dataclass(frozen=True, kw_only=True)
class ExitPolicy:
    """A named rule over the exits of one network; the last exit answers whatever is left.

    >>> policy = ExitPolicy(name="p", exits=(ExitSetting(threshold=0.9), ExitSetting()))
    >>> policy.decide(0, [[4.0, 0.0], [0.1, 0.0]]).leaves
    array([ True, False])
    """

    name: str
    rule: str = "max-probability"
    combine: Combine = "none"
    exits: tuple[ExitSetting, ...]

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule: {self.rule!r} is none of {', '.join(RULES)}")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine: {self.combine!r} is none of {', '.join(COMBINATIONS)}")
        if not self.exits:
            raise ValueError("exits: a policy needs at least one")
        if self.combine == "none" and any(setting.weight != 1 for setting in self.exits):
            raise ValueError("weight: given, but combine is none")
        if self.exits[0].weight == 0:
            raise ValueError("weight: that of the first exit is 0, so that it would have no answer")

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of all that decides; the name is not part of it, nor are weights without a combination."""
        content: dict[str, Any] = {
            "rule": self.rule,
            "exits": [asdict(setting) for setting in self.exits],
        }
        if self.combine == "none":
            for setting in content["exits"]:
                del setting["weight"]
        else:
            content["combine"] = self.combine
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def goes_by_time(self) -> bool:
        """Whether decide() is to be told how long the samples have left."""
        return RULES[self.rule].goes_by_time

    def state_type(self, classes: int) -> np.dtype[np.void] | None:
        """The record that a sample carries from exit to exit: packed, little-endian; None: nothing."""
        fields = (*COMBINATIONS[self.combine].fields(classes), *RULES[self.rule].fields(classes))
        return np.dtype(list(fields)) if fields else None

    def state_bytes(self, classes: int) -> int:
        """How many bytes of state a sample carries at every boundary after the first exit."""
        state_type = self.state_type(classes)
        return 0 if state_type is None else state_type.itemsize

    def check_state(self, data: bytes, boundary: int, classes: int) -> None:
        """Return where a sample that arrives at this boundary can carry this state. Raises InvalidInput.

        Nothing has been decided before boundary 0, so that there the state is empty.
        """
        if not (data or self.has_state):
            return
        wanted = self.state_bytes(classes) if boundary > 0 else 0
        if len(data) != wanted:
            declares = f"{self.rule}, combining {self.combine}, declares {wanted}"
            text = f"{len(data)} bytes at boundary {boundary}, but {declares}"
            raise InvalidInput("exit_state", text)
        state_type = self.state_type(classes)
        if wanted and state_type is not None:
            memory = _memory(np.frombuffer(data, state_type))
            flaw = COMBINATIONS[self.combine].flaw(memory)
            flaw = flaw or RULES[self.rule].flaw(memory, passed=boundary, classes=classes)
            if flaw:
                raise InvalidInput("exit_state", flaw)

    def decide(
        self,
        exit_index: int,
        logits: ArrayLike,
        *,
        state: State | None = None,
        gate: NDArray[np.floating] | None = None,
        time_left_s: NDArray[np.float64] | None = None,
    ) -> Decision:
        """Who leaves at this exit: logits (N, C) -> Decision of N. Everybody leaves at the last.

        state: (N,) as the exit before left it; gate: (N,) the stage's own; time_left_s: (N,) until the
        answers are due.
        Raises ValueError where the policy needs a state or a gate and there is none.
        """
        setting, rule = self.exits[exit_index], RULES[self.rule]
        is_last = exit_index == len(self.exits) - 1
        if rule.needs_gate and gate is None and setting.on and not is_last:
            raise ValueError(f"gate: exit {exit_index} needs one")
        before = self._before(exit_index, state)
        probabilities, combined = COMBINATIONS[self.combine].answer(
            logits, setting.temperature, self._shares[exit_index], before
        )
        evidence = Evidence(probabilities, gate, time_left_s)
        remembered = rule.remember(evidence, before)
        confidence = rule.confidence(evidence, remembered)
        for_all = is_last or not setting.on
        leaves = np.full(len(confidence), is_last) if for_all else confidence >= setting.threshold
        after = None
        if self.has_state:
            after = self._after(probabilities.shape, {**combined, **remembered})
        return Decision(leaves, confidence, probabilities, after)

    def decisions(
        self,
        logits: Sequence[ArrayLike],
        *,
        gates: Sequence[NDArray[np.floating] | None] = (),
        time_left_s: Sequence[NDArray[np.float64]] = (),
    ) -> Iterator[Decision]:
        """What every exit says of N samples, each taken through all exits whether or not one lets it leave.

        logits: (N, C) per exit; gates, time_left_s: (N,) per exit, or empty.
        """
        state = None
        for k, at_exit in enumerate(logits):
            decision = self.decide(
                k,
                at_exit,
                state=state,
                gate=gates[k] if gates else None,
                time_left_s=time_left_s[k] if time_left_s else None,
            )
            state = decision.state
            yield decision

    def _before(self, exit_index: int, state: State | None) -> Memory | None:
        if not self.has_state or exit_index == 0:
            return None
        if state is None:
            raise ValueError(f"state: exit {exit_index} needs what the one before left")
        return _memory(state)

    def _after(self, shape: tuple[int, ...], memory: Memory) -> State:
        state = np.empty(shape[0], self.state_type(shape[1]))
        for name, values in memory.items():
            state[name] = values
        return state

    @cached_property
    def has_state(self) -> bool:
        """Whether samples carry anything from exit to exit."""
        return self.state_type(2) is not None

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        """Each exit's weight in all up to it."""
        totals = accumulate(setting.weight for setting in self.exits)
        return tuple(s.weight / total for s, total in zip(self.exits, totals, strict=True))


def _memory(state: State) -> Memory:
    return {name: state[name] for name in state.dtype.names or ()}
