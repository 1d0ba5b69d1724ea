"""One phase of a regime as a Lightning module: what is frozen, the loss, what the log shows."""

from __future__ import annotations

from typing import Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from offramp.models import ExitNetwork, ExitOutputs
from offramp.training.codec_loss import codec_loss
from offramp.training.recipe import Optimiser
from offramp.training.regimes import Batch, Moment, Phase, Regime


def _single(outputs: ExitOutputs) -> ExitOutputs:
    """The same with logits and gates in float32, under any precision."""
    return outputs._replace(
        logits=tuple(logits.float() for logits in outputs.logits),
        gates=tuple(None if gate is None else gate.float() for gate in outputs.gates),
    )


class ExitTraining(pl.LightningModule):
    """Trains what the phase names, by the regime's loss.

    Logs for every epoch the loss and accuracy of the exits that learn, and, on the part held out,
    of all exits. Parts that the phase does not name stay in evaluation mode and get no gradient.
    """

    def __init__(
        self, network: ExitNetwork, regime: Regime, phase: Phase, optimiser: Optimiser
    ) -> None:
        super().__init__()
        self.network, self.regime = network, regime
        self.phase, self.optimiser = phase, optimiser
        network.requires_grad_(False)
        for name, module in network.named_modules():
            if name in phase.modules:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; of the network's modules only those that the phase trains, and itself."""
        super().train(mode)
        for name, module in self.network.named_modules():
            # The network itself says that codes are to be rounded with a gradient.
            module.training = mode and (name == "" or name in self.phase.modules)
        return self

    def _log(self, name: str, value: Tensor, count: int, *, shown: bool = False) -> None:
        self.log(
            name,
            value,
            on_step=False,
            on_epoch=True,
            batch_size=count,
            prog_bar=shown,
            sync_dist=True,
        )

    def on_train_epoch_start(self) -> None:
        """Set the mode, which the trainer leaves as it finds it."""
        self.train()

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """The regime's loss."""
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        moment = Moment(
            self.phase, self.trainer.global_step / steps, self.optimiser.label_smoothing
        )
        inputs, labels = batch
        last = max(self.phase.exits)
        early = last < len(self.network.exits)  # nothing behind it has to be computed
        outputs = _single(self.network.until(last, inputs) if early else self.network(inputs))
        losses = self.regime.loss(outputs, batch, moment)
        for exit_index, loss in losses.exits.items():
            right = (outputs.logits[exit_index].argmax(1) == labels).float().mean()
            self._log(f"train/loss_{exit_index}", loss, len(labels))
            self._log(f"train/accuracy_{exit_index}", right, len(labels))
        for name, value in losses.figures.items():
            self._log(f"train/{name}", value, len(labels))
        return losses.total + codec_loss(self.network, outputs, self.regime.codec_distillation)

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Log each exit's cross-entropy and accuracy on the part held out."""
        outputs, labels = _single(self.network(batch[0])), batch[1]
        for exit_index, logits in enumerate(outputs.logits):
            right = (logits.argmax(1) == labels).float().mean()
            self._log(f"validation/loss_{exit_index}", F.cross_entropy(logits, labels), len(labels))
            self._log(f"validation/accuracy_{exit_index}", right, len(labels), shown=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nesterov SGD; no weight decay on norms and biases; one cycle over the phase's steps."""
        learning = [p for p in self.parameters() if p.requires_grad]
        settings = self.optimiser
        sgd = torch.optim.SGD(
            [
                {
                    "params": [p for p in learning if p.ndim > 1],
                    "weight_decay": settings.weight_decay,
                },
                {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
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
