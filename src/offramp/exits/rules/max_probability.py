"""Leave where the most probable class is probable enough."""

from __future__ import annotations

import numpy as np

from offramp.exits.rules.rule import Evidence, Floats, Memory, Rule


class MaxProbability(Rule):
    """The largest probability, in [1 / C, 1]."""

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """The largest probability of each row."""
        largest: Floats = np.maximum.reduce(evidence.probabilities, axis=1)
        return largest
