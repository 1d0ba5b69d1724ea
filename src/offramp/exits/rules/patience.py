"""Leave where enough exits in a row have said the same (PABEE, Zhou et al. 2020, arXiv 2006.04152).

The confidence is the length of that run, this exit included: 1 at the first exit and wherever the
label changes. PABEE's patience t, which counts agreements, is a threshold of t + 1 here. What travels
is the label and the run.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from offramp.exits.confidence import labels_of
from offramp.exits.rules.rule import Evidence, Fields, Floats, Memory, Rule

_LONGEST = 255  # a run is one byte; a longer one stays at this


class Patience(Rule):
    """The number of exits in a row, up to this one, that gave this one's label."""

    is_discrete: ClassVar[bool] = True

    def fields(self, classes: int) -> Fields:
        """Label and run: two bytes up to 256 classes."""
        return (
            ("label", np.min_scalar_type(classes - 1).newbyteorder("<").str, ()),
            ("run", "|u1", ()),
        )

    def remember(self, evidence: Evidence, before: Memory | None) -> Memory:
        """This exit's labels, and each run one longer where the label stayed."""
        label = labels_of(evidence.probabilities)
        run = np.ones(len(label), np.int64)
        if before is not None:
            run += np.where(label == before["label"], before["run"], 0)
        return {"label": label, "run": np.minimum(run, _LONGEST)}

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """The runs."""
        return memory["run"].astype(np.float64)

    def flaw(self, memory: Memory, *, passed: int, classes: int) -> str:
        """A label that is no class, or a run longer than the exits passed."""
        if (memory["label"] >= classes).any():
            return f"its label is none of {classes} classes"
        longest = min(passed, _LONGEST)
        if ((memory["run"] < 1) | (memory["run"] > longest)).any():
            return f"its run is not from 1 to {longest}"
        return ""
