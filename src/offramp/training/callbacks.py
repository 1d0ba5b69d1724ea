"""Around an epoch: the batches learn its number, the log its figures, the user its progress."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar, WeightAveraging
from torch import Tensor

from offramp.training.batches import Batches


class SetEpoch(Callback):
    """Tells the batches which epoch it is, so that a resumed run goes on as it would have.

    Also which share of every batch this process takes, where several devices train together.
    first_epoch: how many epochs earlier phases had.
    """

    def __init__(self, batches: Batches, first_epoch: int = 0) -> None:
        self._batches, self._first_epoch = batches, first_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Set the epoch."""
        self._batches.epoch = self._first_epoch + trainer.current_epoch
        self._batches.rank, self._batches.processes = trainer.global_rank, trainer.world_size


class MarkPhase(Callback):
    """Writes the number of the phase into its checkpoints."""

    def __init__(self, index: int) -> None:
        self._index = index

    def on_save_checkpoint(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write it."""
        checkpoint["phase"] = self._index


class EpochLog(Callback):
    """One line an epoch in a CSV file: the figures of every exit, trained on and held out.

    A figure that a phase does not have is left empty.
    """

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        self._path, self._first_epoch = path, first_epoch

    def _rows(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        figures = sorted({key for row in rows for key in row} - {"epoch"})
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *figures], restval="")
            writer.writeheader()
            writer.writerows(rows)

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Write the epoch's line, in place of any from an interrupted run."""
        if not trainer.is_global_zero:
            return
        epoch = self._first_epoch + trainer.current_epoch
        figures = {key: f"{float(v):.6g}" for key, v in trainer.callback_metrics.items()}
        earlier = [row for row in self._rows() if int(row["epoch"]) < epoch]
        self._write([*earlier, {"epoch": str(epoch), **figures}])


def moving_average(decay: float) -> WeightAveraging:
    """Keeps the exponential moving average of weights and statistics; counters as they are.

    What stands still is kept to the bit, which decay * mean + (1 - decay) * value would not do.
    """

    def average(mean: Tensor, value: Tensor, _count: Tensor) -> Tensor:
        return torch.lerp(mean, value, 1 - decay) if value.is_floating_point() else value

    return WeightAveraging(avg_fn=average)


class StopAfter(Callback):
    """Ends training after that many epochs of this call, to be resumed another time."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    @property
    def is_due(self) -> bool:
        """Whether they are over."""
        return self._left <= 0

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Count down."""
        self._left -= 1
        if self.is_due:
            trainer.should_stop = True


class Progress(RichProgressBar):
    """Lightning's bar, on stderr, without the name of a logger that is not used."""

    def __init__(self) -> None:
        super().__init__(leave=True, console_kwargs={"stderr": True})

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures behind the bar: the accuracy of each exit, shortly."""
        figures = super().get_metrics(trainer, pl_module)
        return {
            key.removeprefix("validation/accuracy_"): value
            for key, value in figures.items()
            if key != "v_num"
        }
