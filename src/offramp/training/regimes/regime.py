"""What every training regime has: phases, and a loss.

    recipe --> regime.phases: what trains, for how many epochs; what is frozen
               regime.loss:   outputs of all exits --> one number to lessen, and each exit's own

A phase is one fit, with an optimiser, a learning-rate cycle and a moving average of its own. Parts
that a phase does not train keep their weights and statistics to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from offramp.models import ExitNetwork, ExitOutputs
from offramp.training.regimes.parts import Part, parts_of

Batch = tuple[Tensor, Tensor]  # inputs (N, ...), labels (N,) int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a regime is built from, besides its own settings."""

    network: ExitNetwork
    weights: tuple[float, ...]  # of the exits, as the recipe gives them
    epochs: int  # in all
    folder: Path | None = None  # where files that the recipe names are looked up
    teacher: ExitNetwork | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training: which exits learn, and which modules of the network may change.

    modules: by name, each for its own parameters and buffers alone, not those of its children.
    """

    name: str
    epochs: int
    exits: tuple[int, ...]
    modules: frozenset[str]


class Moment(NamedTuple):
    """Where training stands."""

    phase: Phase
    progress: float  # the share of the phase's steps that are done
    smoothing: float  # of labels


@dataclass(frozen=True, slots=True)
class Losses:
    """What to lessen; each learning exit's own loss, by exit; what else the log should show."""

    total: Tensor
    exits: Mapping[int, Tensor]
    figures: Mapping[str, Tensor] = field(default_factory=dict)


class RegimeSettings(BaseModel):
    """What every `[regime]` of a recipe has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    gated: ClassVar[bool] = False  # whether every early exit gets a gate
    # How much the codecs learn from their boundaries as they were, beside the exits' losses.
    codec_distillation: Annotated[float, Field(ge=0)] = 0.0


class Regime(nn.Module):
    """Phases and a loss; by default the sum of the learning exits' weighted cross-entropies.

    A subclass may hold parameters of its own; they train with the network in every phase.
    """

    def __init__(self, context: Context, phases: Sequence[Phase]) -> None:
        super().__init__()
        self.exit_weights, self.phases = context.weights, tuple(phases)
        self.codec_distillation = 0.0

    def exit_losses(self, outputs: ExitOutputs, batch: Batch, at: Moment) -> dict[int, Tensor]:
        """The loss of each learning exit."""
        return {
            k: F.cross_entropy(outputs.logits[k], batch[1], label_smoothing=at.smoothing)
            for k in at.phase.exits
        }

    def loss(self, outputs: ExitOutputs, batch: Batch, at: Moment) -> Losses:
        """What one batch costs. outputs: float32 logits (N, classes) of every exit."""
        losses = self.exit_losses(outputs, batch, at)
        return Losses(weighted_sum(self.exit_weights, losses), losses)


def weighted_sum(weights: Sequence[float] | Tensor, losses: Mapping[int, Tensor]) -> Tensor:
    """Sum over the exits given of weight times loss."""
    return torch.stack([weights[k] * loss for k, loss in losses.items()]).sum()


def phase(
    context: Context,
    name: str,
    epochs: int,
    *,
    exits: Iterable[int] | None = None,
    where: Callable[[Part], bool] = lambda _part: True,
) -> Phase:
    """A phase that trains the parts for which `where` holds; by default all, and all exits."""
    chosen = range(context.network.exit_count) if exits is None else exits
    parts = parts_of(context.network)
    return Phase(
        name=name,
        epochs=epochs,
        exits=tuple(chosen),
        modules=frozenset(name for name, part in parts.items() if where(part)),
    )
