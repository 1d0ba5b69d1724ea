"""Joint training: all exits at once.

loss = sum over exits i of weight_i * loss_i  (Scardapane et al. 2020, section "Training")
"""

from __future__ import annotations

from typing import Literal

from offramp.models import ExitOutputs
from offramp.training.regimes.equilibrium import equilibrate
from offramp.training.regimes.regime import (
    Batch,
    Context,
    Losses,
    Moment,
    Regime,
    RegimeSettings,
    phase,
)
from offramp.training.regimes.weights import Fixed, Weights, build_weights


class AllAtOnce(RegimeSettings):
    """What the regimes that train all exits at once have in common."""

    weights: Weights = Fixed()
    rescale_gradients: bool = False  # gradient equilibrium, see equilibrium.py


class Joint(AllAtOnce):
    """All exits at once: the weighted sum of their cross-entropies."""

    kind: Literal["joint"] = "joint"


class JointRegime(Regime):
    """One phase, all parts, all exits."""

    def __init__(self, settings: AllAtOnce, context: Context) -> None:
        super().__init__(context, [phase(context, "all exits", context.epochs)])
        self.weights = build_weights(settings.weights, context.weights)
        if settings.rescale_gradients:
            equilibrate(context.network)

    def loss(self, outputs: ExitOutputs, batch: Batch, at: Moment) -> Losses:
        """The sum under the weights of this moment."""
        losses = self.exit_losses(outputs, batch, at)
        total = self.weights.total(losses, at.progress)
        return Losses(total, losses, self.weights.figures(at.progress))
