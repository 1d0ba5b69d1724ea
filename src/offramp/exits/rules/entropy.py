"""Leave where the probabilities are far from even.

BranchyNet (Teerapittayanon et al. 2016, arXiv 1709.01686) leaves at an entropy below a threshold,
DDNN (Teerapittayanon et al. 2017, arXiv 1709.01921) at one divided by log C, which
lies in [0, 1]. Here it is taken from 1, so that it grows with certainty.
"""

from __future__ import annotations

import numpy as np

from offramp.exits.rules.rule import Evidence, Floats, Memory, Rule


class Entropy(Rule):
    """1 - H(p) / log C, in [0, 1]: 0 where all classes are alike, 1 where one has everything."""

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """One less the normalised entropy of each row."""
        p = evidence.probabilities
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)  # 0 log 0 is 0
        return np.asarray(1 + (p * logs).sum(axis=1) / np.log(p.shape[1]))
