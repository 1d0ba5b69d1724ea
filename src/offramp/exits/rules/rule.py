"""What every exit rule is: a number that grows with certainty, from what a sample shows at an exit.

    probabilities, gate, time left --remember--> memory --confidence--> (N,) >= threshold: leaves

Most rules look at one exit only. One that looks back declares what of a sample travels with it.
Letters: N samples, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Fields = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, little-endian dtype, shape per sample
Memory = Mapping[str, NDArray[Any]]  # (N, ...) by field; what comes in is as it travelled


class Evidence(NamedTuple):
    """What N samples show at one exit."""

    probabilities: Floats  # (N, C) calibrated, and combined where the policy combines
    gate: NDArray[np.floating] | None = None  # (N,) the stage's own output, before the sigmoid
    time_left_s: Floats | None = None  # (N,) until the answer is due


class Rule(ABC):
    """One way to say how sure an exit is. A subclass is stateless: memory is handed in and out."""

    is_discrete: ClassVar[bool] = False  # its confidence is a count, which is often the threshold
    needs_gate: ClassVar[bool] = False  # at every early exit that is on
    goes_by_time: ClassVar[bool] = False  # of which samples on disk have none: nothing to calibrate

    @abstractmethod
    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """How sure the exit is: (N,), growing with certainty. memory: as remember() gave it at this exit."""

    def fields(self, classes: int) -> Fields:
        """What a sample carries from exit to exit; nothing unless a rule says so."""
        return ()

    def remember(self, evidence: Evidence, before: Memory | None) -> Memory:
        """The memory after this exit; before: that of the exit before, None at the first."""
        return {}

    def flaw(self, memory: Memory, *, passed: int, classes: int) -> str:
        """What no sample that has passed so many exits can carry, in words; empty where all is well."""
        return ""
