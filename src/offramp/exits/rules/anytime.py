"""Leave where the time left would not carry a sample to the next exit: the newest answer at the deadline.

Anytime prediction (Huang et al. 2018, MSDNet, arXiv 1703.09844). The threshold of an exit
is minus the seconds that the next one needs: -0.02 leaves with 20 ms left or less.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from offramp.exits.rules.rule import Evidence, Floats, Memory, Rule


class Anytime(Rule):
    """Minus the seconds left, so that it grows as the deadline comes nearer; no deadline is -infinity."""

    goes_by_time: ClassVar[bool] = True

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """Minus the time left of each sample."""
        if evidence.time_left_s is None:
            return np.full(len(evidence.probabilities), -np.inf)
        return -np.asarray(evidence.time_left_s, np.float64)
