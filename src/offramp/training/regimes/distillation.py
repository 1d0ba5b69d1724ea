"""Distillation: jointly, and early exits also learn what a deeper one says.

loss_i = (1 - share) * cross-entropy + share * temperature^2 * KL(teacher || exit i)

Source: Hinton et al. 2015, arXiv 1503.02531; between exits, Phuong and Lampert 2019 (ICCV).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from offramp.models import ExitOutputs
from offramp.training.regimes.joint import AllAtOnce, JointRegime
from offramp.training.regimes.regime import Batch, Context, Moment


def distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(teacher || student) of softened logits, twice (N, classes) -> a number."""
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


class Distillation(AllAtOnce):
    """Every early exit also learns the softened probabilities of the last.

    With `teacher`, the folder of a finished run, every exit learns those of that run's last exit.
    """

    kind: Literal["distillation"]
    temperature: Annotated[float, Field(gt=0)] = 3.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    teacher: str | None = None


class DistillationRegime(JointRegime):
    """Joint training with a teacher."""

    def __init__(self, settings: Distillation, context: Context) -> None:
        super().__init__(settings, context)
        self.temperature, self.share = settings.temperature, settings.share
        # In a tuple, so that its weights are no part of this module's state.
        self._teacher = (context.teacher.eval(),) if context.teacher is not None else ()

    def exit_losses(self, outputs: ExitOutputs, batch: Batch, at: Moment) -> dict[int, Tensor]:
        """Cross-entropy and distance from the teacher, which the last exit is unless one is given."""
        losses = super().exit_losses(outputs, batch, at)
        taught = self._taught(outputs, batch[0])
        untaught = () if self._teacher else (len(outputs.logits) - 1,)
        return {
            k: own if k in untaught else self._mixed(own, outputs.logits[k], taught)
            for k, own in losses.items()
        }

    def _taught(self, outputs: ExitOutputs, inputs: Tensor) -> Tensor:
        """The teacher's logits, without gradient."""
        if not self._teacher:
            return outputs.logits[-1].detach()
        with torch.no_grad():
            taught: ExitOutputs = self._teacher[0].to(inputs.device)(inputs)
        return taught.logits[-1].float()

    def _mixed(self, own: Tensor, logits: Tensor, taught: Tensor) -> Tensor:
        return (1 - self.share) * own + self.share * distance(logits, taught, self.temperature)
