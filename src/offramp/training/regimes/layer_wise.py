"""Layer-wise training: a stage with its exit, then frozen, then the next on top of it.

Source: Baccarelli et al. 2020, Information Sciences 521, "layer-wise"; Belilovsky et al. 2019,
arXiv 1812.11446, for greedy training of deep networks.
"""

from __future__ import annotations

from typing import Literal

from offramp.errors import InvalidSettings
from offramp.training.regimes.regime import Context, Phase, Regime, RegimeSettings, phase


class LayerWise(RegimeSettings):
    """One phase a stage; the epochs are shared evenly, earlier stages first to get one more."""

    kind: Literal["layer-wise"]


def shared_evenly(epochs: int, stages: int) -> tuple[int, ...]:
    """Whole epochs a stage that sum to `epochs`: 8 over 3 is 3, 3, 2."""
    return tuple(epochs // stages + (k < epochs % stages) for k in range(stages))


class LayerWiseRegime(Regime):
    """Stage k trains with its exit, its gate and the codec before it, for the loss of exit k."""

    def __init__(self, settings: LayerWise, context: Context) -> None:
        del settings
        stages = context.network.exit_count
        if context.epochs < stages:
            raise InvalidSettings("optimiser.epochs", f"{context.epochs} for {stages} stages")
        shares = shared_evenly(context.epochs, stages)
        super().__init__(context, [self._phase(context, k, shares[k]) for k in range(stages)])

    @staticmethod
    def _phase(context: Context, stage: int, epochs: int) -> Phase:
        return phase(
            context, f"stage {stage}", epochs, exits=[stage], where=lambda part: part.stage == stage
        )
