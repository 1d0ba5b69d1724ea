"""The weights of the exits' losses: as the recipe gives them, scheduled, learned, or by loss.

All start at the `weight` of each exit and the `final_weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from offramp.errors import InvalidSettings
from offramp.training.regimes.regime import weighted_sum

_STRICT = ConfigDict(frozen=True, extra="forbid")
_NEWS = 0.02  # the part of a new loss in the moving mean: about the last fifty batches


class Fixed(BaseModel):
    """The same throughout."""

    model_config = _STRICT
    kind: Literal["fixed"] = "fixed"


class Scheduled(BaseModel):
    """From the starting weights to `end`, in a straight line over the steps of training."""

    model_config = _STRICT
    kind: Literal["scheduled"]
    end: tuple[Annotated[float, Field(ge=0)], ...]  # one an exit, the final one last


class Adaptive(BaseModel):
    """Learned with the network: each loss is divided by the variance that it is taken to have.

    Source: Kendall, Gal and Cipolla 2018, arXiv 1705.07115, section 3.2.
    """

    model_config = _STRICT
    kind: Literal["adaptive"]


class ByLoss(BaseModel):
    """The higher an exit's own loss has been of late, the more it counts; their sum stays as it is.

    power: of the loss, to which the weights are proportional. After Guo, Haque, Huang, Yeung and
    Fei-Fei 2018 (ECCV), "Dynamic task prioritization", which goes by accuracy in place of loss.
    """

    model_config = _STRICT
    kind: Literal["by-loss"]
    power: Annotated[float, Field(gt=0)] = 1.0


Weights = Annotated[Fixed | Scheduled | Adaptive | ByLoss, Field(discriminator="kind")]


class ExitWeights(nn.Module):
    """Fixed weights; and the shape of the others."""

    changes: ClassVar[bool] = False

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.start = tuple(start)

    def at(self, progress: float) -> Tensor:
        """(E,), when that share of the steps is done."""
        del progress
        return torch.tensor(self.start)

    def total(self, losses: Mapping[int, Tensor], progress: float) -> Tensor:
        """The exits' losses under the weights, as one number."""
        return weighted_sum(self.at(progress), losses)

    def figures(self, progress: float) -> dict[str, Tensor]:
        """For the log: weights that change."""
        if not self.changes:
            return {}
        return {f"weight_{k}": weight for k, weight in enumerate(self.at(progress).detach())}


class ScheduledWeights(ExitWeights):
    """Between two given sets."""

    changes = True

    def __init__(self, start: Sequence[float], end: Sequence[float]) -> None:
        super().__init__(start)
        self.end = tuple(end)

    def at(self, progress: float) -> Tensor:
        """start + progress * (end - start)."""
        start, end = torch.tensor(self.start), torch.tensor(self.end)
        return start + progress * (end - start)


class AdaptiveWeights(ExitWeights):
    """exp(-s) for learned log-variances s = log sigma^2.

    A loss L becomes L / sigma^2 + log sigma, the negative log-likelihood of a softmax whose logits
    are divided by sigma^2 (Kendall et al. 2018, equation 10).
    """

    changes = True

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__(start)
        self.log_variance = nn.Parameter(-torch.tensor(self.start).log())

    def at(self, progress: float) -> Tensor:
        """exp(-s)."""
        del progress
        return torch.exp(-self.log_variance)

    def total(self, losses: Mapping[int, Tensor], progress: float) -> Tensor:
        """With log sigma, summed over the exits."""
        return super().total(losses, progress) + 0.5 * self.log_variance.sum()


class WeightsByLoss(ExitWeights):
    """Proportional to start * (moving mean of the exit's loss) ^ power."""

    changes = True
    mean_loss: Tensor

    def __init__(self, start: Sequence[float], power: float) -> None:
        super().__init__(start)
        self.power = power
        self.register_buffer("mean_loss", torch.ones(len(self.start)))

    def at(self, progress: float) -> Tensor:
        """Of the losses so far; at first all count the same."""
        del progress
        start = self.mean_loss.new_tensor(self.start)
        weights = start * self.mean_loss**self.power
        return weights * (start.sum() / weights.sum())

    def total(self, losses: Mapping[int, Tensor], progress: float) -> Tensor:
        """With these losses taken into the mean."""
        with torch.no_grad():
            for k, loss in losses.items():
                self.mean_loss[k].lerp_(loss.detach().to(self.mean_loss), _NEWS)
        return super().total(losses, progress)


def build_weights(
    settings: Fixed | Scheduled | Adaptive | ByLoss, start: Sequence[float]
) -> ExitWeights:
    """The weights that the settings ask for. Raises InvalidSettings where `end` does not fit."""
    match settings:
        case Scheduled():
            if len(settings.end) != len(start):
                message = f"{len(settings.end)} weights for {len(start)} exits"
                raise InvalidSettings("regime.weights.end", message)
            return ScheduledWeights(start, settings.end)
        case Adaptive():
            return AdaptiveWeights(start)
        case ByLoss():
            return WeightsByLoss(start, settings.power)
        case _:
            return ExitWeights(start)
