"""Whether a deployment says what the reference in this process says: the same label from the same exit.

Two things may part them: a code that falls to the other side of a quantiser's step at another batch size (only the
network's own levels tell), and a confidence that lies on its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.client import Timed
from offramp.evaluation.reference import Answers, Reference
from offramp.exits import RULES, ExitPolicy
from offramp.rpc import Answer

TIE = 1e-4  # this near to a threshold, either side is right


class Difference(NamedTuple):
    """One image that the deployment answered otherwise: label and exit, those of the reference, and whether it tied."""

    image: int
    deployed: tuple[int, int]
    reference: tuple[int, int]
    tied: bool


def ties(policy: ExitPolicy, reference: Reference) -> NDArray[np.bool_]:
    """(N,) which images lie within TIE of another decision at some early exit.

    A confidence may lie so near to the threshold of an exit that is on; where the confidence is a count, it is the two
    most probable classes that may lie so near to each other.
    """
    tied = np.zeros(len(reference.logits[0]), np.bool_)
    decisions = policy.decisions(reference.logits, gates=reference.gates)
    for setting, decision in zip(policy.exits[:-1], decisions, strict=False):
        if RULES[policy.rule].is_discrete:
            second, first = np.partition(decision.probabilities, -2, axis=1)[:, -2:].T
            tied |= first - second <= TIE
        else:
            tied |= (np.abs(decision.confidence - setting.threshold) <= TIE) & setting.on
    return tied


def differences(
    deployed: Sequence[Timed], answers: Answers, tied: NDArray[np.bool_]
) -> list[Difference]:
    """The images whose label or exit is not the reference's. Raises the first error among the outcomes."""
    found = []
    for timed in deployed:
        if not isinstance(timed.outcome, Answer):
            raise timed.outcome
        k = timed.index
        said = (timed.outcome.label, timed.outcome.exit)
        wanted = (int(answers.labels[k]), int(answers.exits[k]))
        if said != wanted:
            found.append(Difference(k, said, wanted, bool(tied[k])))
    return sorted(found)
