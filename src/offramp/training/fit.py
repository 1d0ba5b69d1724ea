"""The phases of a regime, one Lightning fit each, resumable after any epoch of any phase.

network --phase 0--> its moving average --phase 1--> its moving average --> scores
               \\-- checkpoints/last.ckpt, with the number of its phase, every epoch
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from offramp.models import ExitNetwork
from offramp.training.batches import Batches
from offramp.training.callbacks import (
    EpochLog,
    MarkPhase,
    Progress,
    SetEpoch,
    StopAfter,
    moving_average,
)
from offramp.training.module import ExitTraining
from offramp.training.recipe import Optimiser
from offramp.training.regimes import Regime

CHECKPOINT = Path("checkpoints/last.ckpt")
Precision = Literal["32-true", "bf16-mixed"]
_NETWORK = "network."  # what ExitTraining puts before the names of the network's weights


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and deprecations from the user."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec")
            warnings.filterwarnings("ignore", "Checkpoint directory .* is not empty")
            # What a phase freezes is so on purpose.
            warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
            yield
    finally:
        logger.setLevel(level)


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's own weights in a checkpoint: the moving average, with which training ends.

    WeightAveraging puts it into `state_dict`, and the weights that training goes on with into
    `current_model_state`.
    """
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return {k.removeprefix(_NETWORK): v for k, v in state.items() if k.startswith(_NETWORK)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """Everything that training a network needs but a regime: data, optimiser, and where to write."""

    network: ExitNetwork
    optimiser: Optimiser
    batches: Batches
    held: Batches
    out: Path
    precision: Precision

    def _trainer(self, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
        return pl.Trainer(
            accelerator="auto",
            precision=self.precision,
            max_epochs=epochs,
            logger=False,
            callbacks=callbacks,
            enable_model_summary=False,
            enable_progress_bar=bool(callbacks),
            enable_checkpointing=bool(callbacks),
        )

    def _fit(
        self, regime: Regime, index: int, checkpoint: Path | None, stop: StopAfter | None
    ) -> bool:
        """Train one phase; whether it came to its end."""
        phase = regime.phases[index]
        first_epoch = sum(earlier.epochs for earlier in regime.phases[:index])
        callbacks: list[pl.Callback] = [
            Progress(),
            # One file, written anew each epoch.
            ModelCheckpoint((self.out / CHECKPOINT).parent, "last", enable_version_counter=False),
            MarkPhase(index),
            moving_average(self.optimiser.average),
            SetEpoch(self.batches, first_epoch),
            EpochLog(self.out / "metrics.csv", first_epoch),
            *([stop] if stop is not None else []),
        ]
        trainer = self._trainer(phase.epochs, callbacks)
        trainer.fit(
            ExitTraining(self.network, regime, phase, self.optimiser),
            self.batches,
            self.held,
            ckpt_path=checkpoint,
            weights_only=True,
        )
        return trainer.current_epoch >= phase.epochs

    def _scores(self, regime: Regime) -> dict[str, float]:
        module = ExitTraining(self.network, regime, regime.phases[-1], self.optimiser)
        (figures,) = self._trainer(0, []).validate(module, self.held, verbose=False)
        return {key: round(float(value), 4) for key, value in sorted(figures.items())}

    def run(
        self, regime: Regime, *, checkpoint: Path | None = None, stop_after: int | None = None
    ) -> dict[str, float] | None:
        """Train all phases; loss and accuracy of each exit on the part held out.

        checkpoint: to go on from. stop_after: epochs of this call; None is returned where phases
        or epochs are left then.
        """
        index = 0
        if checkpoint is not None:
            content = torch.load(checkpoint, weights_only=True, map_location="cpu")
            index = int(content.get("phase", 0))
            phase = regime.phases[index]
            if content["epoch"] + 1 >= phase.epochs:
                module = ExitTraining(self.network, regime, phase, self.optimiser)
                module.load_state_dict(content["state_dict"])
                index, checkpoint = index + 1, None
        stop = StopAfter(stop_after) if stop_after is not None else None
        with _quiet():
            for k in range(index, len(regime.phases)):
                done = self._fit(regime, k, checkpoint if k == index else None, stop)
                more = k + 1 < len(regime.phases)
                if not done or (more and stop is not None and stop.is_due):
                    return None
            return self._scores(regime)
