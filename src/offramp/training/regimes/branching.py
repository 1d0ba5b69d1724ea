"""Differentiable branching: the exit rule is learned with the network.

    gate k: g_k = sigmoid(gate logit), for the last exit 1
    p_k = g_k * product over j < k of (1 - g_j)            the chance to leave at exit k
    loss = -log sum_k p_k softmax(y_k)[label]              of the expected answer
         + cost_weight * sum_k p_k cost_k                  cost as a share of the whole network's
         + supervision * sum_k weight_k cross-entropy_k    so that no exit starves of samples

Source: Scardapane, Comminiello, Scarpiniti, Baccarelli and Uncini 2020 (ICASSP), "Differentiable
branching in deep networks for fast inference"; the last term is deep supervision, as in joint
training.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from offramp.errors import InvalidSettings
from offramp.models import ExitOutputs
from offramp.training.regimes.parts import exit_flops
from offramp.training.regimes.regime import (
    Batch,
    Context,
    Losses,
    Moment,
    Regime,
    RegimeSettings,
    phase,
    weighted_sum,
)


class Branching(RegimeSettings):
    """The price of compute, and how much the exits learn beside their share of the samples."""

    gated: ClassVar[bool] = True
    kind: Literal["branching"]
    cost_weight: Annotated[float, Field(ge=0)] = 0.2
    supervision: Annotated[float, Field(ge=0)] = 0.5


def log_chances(gates: list[Tensor]) -> Tensor:
    """log p_k from the logits of the early exits' gates: E - 1 times (N,) -> (N, E).

    The chances of a row sum to 1.
    """
    leave = torch.stack([*map(F.logsigmoid, gates), torch.zeros_like(gates[0])], 1)
    stay = torch.stack([F.logsigmoid(-gate) for gate in gates], 1).cumsum(1)
    return leave + F.pad(stay, (1, 0))


class BranchingRegime(Regime):
    """One phase; every early exit has a gate."""

    def __init__(self, settings: Branching, context: Context) -> None:
        if not context.network.exits:
            raise InvalidSettings("exits", "branching needs at least one")
        super().__init__(context, [phase(context, "all exits", context.epochs)])
        self.settings = settings
        flops = exit_flops(context.network)
        self.costs = tuple(here / flops[-1] for here in flops)

    def loss(self, outputs: ExitOutputs, batch: Batch, at: Moment) -> Losses:
        """Loss of the expected answer, price of the expected cost, supervision of each exit."""
        gates = [gate for gate in outputs.gates if gate is not None]
        chances = log_chances(gates)  # (N, E)
        of_label = torch.stack(
            [-F.cross_entropy(logits, batch[1], reduction="none") for logits in outputs.logits], 1
        )
        answer = -torch.logsumexp(chances + of_label, 1).mean()
        cost = (chances.exp() @ chances.new_tensor(self.costs)).mean()
        losses = self.exit_losses(outputs, batch, at)
        supervised = weighted_sum(self.exit_weights, losses)
        total = answer + self.settings.cost_weight * cost + self.settings.supervision * supervised
        return Losses(total, losses, {"expected_loss": answer, "expected_cost": cost})
