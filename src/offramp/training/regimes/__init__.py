"""Training regimes: one file each, of one shape, and this chooser.

A regime is its settings (the recipe's `[regime]`) and a class that has phases and a loss (`regime.py`). To add one: a
file with both, and a line in `_REGIMES` and in `Settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from offramp.training.regimes.branching import Branching, BranchingRegime
from offramp.training.regimes.classifier_wise import ClassifierWise, ClassifierWiseRegime
from offramp.training.regimes.distillation import Distillation, DistillationRegime
from offramp.training.regimes.joint import Joint, JointRegime
from offramp.training.regimes.layer_wise import LayerWise, LayerWiseRegime
from offramp.training.regimes.regime import Batch, Context, Losses, Moment, Phase, Regime

Settings = Annotated[
    Joint | Distillation | LayerWise | ClassifierWise | Branching, Field(discriminator="kind")
]
_REGIMES: dict[type, Callable[[Any, Context], Regime]] = {
    Joint: JointRegime,
    Distillation: DistillationRegime,
    LayerWise: LayerWiseRegime,
    ClassifierWise: ClassifierWiseRegime,
    Branching: BranchingRegime,
}


def build_regime(
    settings: Joint | Distillation | LayerWise | ClassifierWise | Branching, context: Context
) -> Regime:
    """The regime of a recipe. Raises InvalidSettings naming the key that does not fit the network."""
    regime = _REGIMES[type(settings)](settings, context)
    regime.codec_distillation = settings.codec_distillation
    return regime


__all__ = [
    "Batch",
    "Branching",
    "ClassifierWise",
    "Context",
    "Distillation",
    "Joint",
    "LayerWise",
    "Losses",
    "Moment",
    "Phase",
    "Regime",
    "Settings",
    "build_regime",
]
