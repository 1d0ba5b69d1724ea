"""Leave where the most probable class is well ahead of the second."""

from __future__ import annotations

import numpy as np

from offramp.exits.rules.rule import Evidence, Floats, Memory, Rule


class Margin(Rule):
    """The largest probability less the second largest, in [0, 1]."""

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """The margin of each row."""
        second, first = np.partition(evidence.probabilities, -2, axis=1)[:, -2:].T
        return np.asarray(first - second)
