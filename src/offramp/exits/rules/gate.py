"""Leave where a learned gate opens: an output of the stage's own graph, over its features.

Differentiable branching (Scardapane et al., ICASSP 2020) trains such gates with the network.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from offramp.exits.rules.rule import Evidence, Floats, Memory, Rule


class Gate(Rule):
    """sigmoid(gate), in [0, 1]; 0 at an exit without a gate, which lets nobody leave early."""

    needs_gate: ClassVar[bool] = True

    def confidence(self, evidence: Evidence, memory: Memory) -> Floats:
        """How far each gate is open."""
        if evidence.gate is None:
            return np.zeros(len(evidence.probabilities))
        # The same as 1 / (1 + exp(-x)), without its overflow.
        return np.asarray(0.5 * (1 + np.tanh(np.asarray(evidence.gate, np.float64) / 2)))
