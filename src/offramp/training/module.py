"""The joint loss over all exits, as a Lightning module.

loss = sum over exits i of weight_i * loss_i  (Scardapane et al. 2020, section "Training")

loss_i is the cross-entropy and, in distillation, the distance to what the last exit says as well.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from offramp.models import ExitNetwork
from offramp.training.recipe import Distillation, Joint, Optimiser

Batch = tuple[Tensor, Tensor]  # images (N, H, W, C) uint8, labels (N,) int64


def distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(teacher || student) of softened logits, twice (N, classes) -> a number."""
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


class JointTraining(pl.LightningModule):
    """Trains every exit at once; logs loss and accuracy of each exit for every epoch."""

    def __init__(
        self,
        network: ExitNetwork,
        weights: tuple[float, ...],
        optimiser: Optimiser,
        regime: Joint | Distillation,
    ) -> None:
        super().__init__()
        self.network, self.weights, self.optimiser = network, weights, optimiser
        self.regime = regime

    def _step(self, batch: Batch, split: str, smoothing: float) -> Tensor:
        images, labels = batch
        losses = []
        every = [logits.float() for logits in self.network(images).logits]
        for exit_index, logits in enumerate(every):
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            if isinstance(self.regime, Distillation) and logits is not every[-1]:
                taught = distance(logits, every[-1].detach(), self.regime.temperature)
                loss = (1 - self.regime.share) * loss + self.regime.share * taught
            accuracy = (logits.argmax(1) == labels).float().mean()
            losses.append(loss)
            for figure, value in (("loss", loss), ("accuracy", accuracy)):
                self.log(
                    f"{split}/{figure}_{exit_index}",
                    value,
                    on_step=False,
                    on_epoch=True,
                    batch_size=len(labels),
                    prog_bar=(split, figure) == ("validation", "accuracy"),
                )
        return torch.stack([w * x for w, x in zip(self.weights, losses, strict=True)]).sum()

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """The weighted sum of the exits' losses."""
        return self._step(batch, "train", self.optimiser.label_smoothing)

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Log each exit's loss and accuracy on the part held out."""
        self._step(batch, "validation", 0.0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nesterov SGD; no weight decay on norms and biases; one cycle over all steps."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        settings = self.optimiser
        sgd = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.peak_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            sgd, max_lr=settings.peak_rate, total_steps=steps, pct_start=0.15, cycle_momentum=False
        )
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
