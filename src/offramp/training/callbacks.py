"""Around an epoch: the batches learn its number, the log its figures, the user its progress."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, RichProgressBar

from offramp.training.batches import Batches


class SetEpoch(Callback):
    """Tells the batches which epoch it is, so that a resumed run goes on as it would have."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Set the epoch."""
        self._batches.epoch = trainer.current_epoch


class EpochLog(Callback):
    """One line an epoch in a CSV file: loss and accuracy of every exit, trained on and held out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _rows(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Write the epoch's line, in place of any from an interrupted run."""
        figures = {key: f"{float(v):.6g}" for key, v in sorted(trainer.callback_metrics.items())}
        earlier = [row for row in self._rows() if int(row["epoch"]) < trainer.current_epoch]
        self._write([*earlier, {"epoch": str(trainer.current_epoch), **figures}])


class StopAfter(Callback):
    """Ends training after that many epochs of this call, to be resumed another time."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Count down."""
        self._left -= 1
        if self._left <= 0:
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
