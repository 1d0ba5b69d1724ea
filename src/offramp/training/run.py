"""A run: a folder that holds a recipe, its checkpoints, its log, and what made it.

    recipe.toml --train--> RUN/recipe.toml               the same
                           RUN/commands.txt              what was called: the first, then resumptions
                           RUN/metrics.csv               loss and accuracy per exit, a line an epoch
                           RUN/checkpoints/last.ckpt     to resume from, written every epoch
                           RUN/provenance.json           what made it, written at its end

A run without provenance.json is unfinished.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from offramp import data
from offramp.data import ImageSet, hold_out
from offramp.errors import InvalidInput, InvalidSettings
from offramp.models import CannotAttach, ExitNetwork, Preparation, SmallResNet, attach
from offramp.training.batches import Batches
from offramp.training.callbacks import EpochLog, Progress, SetEpoch, StopAfter
from offramp.training.module import JointTraining
from offramp.training.recipe import Recipe, read_recipe

CHECKPOINT = Path("checkpoints/last.ckpt")
Precision = Literal["32-true", "bf16-mixed"]


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
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the network in evaluation mode, and what made it."""

    network: ExitNetwork
    recipe: Recipe
    provenance: dict[str, Any]


def build_network(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ExitNetwork:
    """The untrained network of a recipe, for (H, W, C) images.

    The images are normalised by mean and std per channel, of values in [0, 1]; by default 0 and 1.
    Raises CannotAttach where the recipe's exits do not fit its backbone.
    """
    channels = image_shape[2]
    network = attach(
        SmallResNet(channels=channels, classes=classes, **recipe.backbone.model_dump()),
        [exit_.exit_at() for exit_ in recipe.exits],
        prepare=Preparation(mean or [0.0] * channels, std or [1.0] * channels),
        image_shape=image_shape,
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _split(recipe: Recipe, folder: Path | None) -> tuple[ImageSet, ImageSet]:
    whole = data.load(recipe.data.name, "train", folder)
    kept, held = hold_out(len(whole), recipe.data.held_out, recipe.seed)
    return whole.take(kept), whole.take(held)


def held_out(recipe: Recipe, folder: Path | None = None) -> ImageSet:
    """The part of the training data that training under this recipe does not see."""
    return _split(recipe, folder)[1]


def _normalisation(images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of values in [0, 1]."""
    pixels = images.images.reshape(-1, images.images.shape[-1])
    return (pixels.mean(0) / 255.0).tolist(), (pixels.std(0) / 255.0).tolist()


def _prepare_folder(recipe_path: Path, out: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any; `out` then holds the recipe.

    Raises InvalidInput as `train` does.
    """
    checkpoint = out / CHECKPOINT
    if not resume:
        if checkpoint.exists():
            raise InvalidInput("--out", f"{out} holds a run; --resume goes on with it")
        try:
            out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(recipe_path, out / "recipe.toml")
        except shutil.SameFileError as exc:
            message = f"{out} holds the recipe itself; --resume makes the run there"
            raise InvalidInput("--out", message) from exc
        except OSError as exc:
            raise InvalidInput("--out", f"{out} cannot be written: {exc.strerror}") from exc
        return None
    if (out / "provenance.json").exists():
        raise InvalidInput("--resume", f"{out} is finished")
    if read_recipe(out / "recipe.toml") != read_recipe(recipe_path):
        raise InvalidInput("--resume", f"{out} was made by another recipe")
    return checkpoint if checkpoint.exists() else None


def _record_command(out: Path, command: str, *, resume: bool) -> dict[str, Any]:
    """What the provenance says of the calls that made a run, this one included."""
    path = out / "commands.txt"
    earlier = path.read_text().splitlines() if resume and path.exists() else []
    first, *resumptions = commands = [*earlier, command]
    path.write_text("".join(f"{line}\n" for line in commands))
    return {"command": first} | ({"resumed": resumptions} if resumptions else {})


def train(
    recipe_path: Path,
    out: Path,
    *,
    folder: Path | None = None,
    resume: bool = False,
    precision: Precision = "bf16-mixed",
    stop_after: int | None = None,
    command: str = "",
) -> dict[str, float] | None:
    """Train as the recipe says; `out` then holds the run. Scores of each exit on the part held out.

    resume: go on from the run's last checkpoint, which every epoch writes. stop_after: end after
    that many epochs of this call, to be resumed; the run is unfinished then, and the result None.
    command: what called this, for the provenance; a resumed run keeps the first.
    Raises InvalidInput where `out` holds a run and is not to be resumed, is to be and is finished,
    or was made by another recipe; InvalidSettings where the recipe's exits do not fit its backbone.
    """
    recipe = read_recipe(recipe_path)
    checkpoint = _prepare_folder(recipe_path, out, resume=resume)
    commands = _record_command(out, command, resume=resume)
    torch.manual_seed(recipe.seed)
    kept, held = _split(recipe, folder)
    mean, std = _normalisation(kept)
    try:
        network = build_network(recipe, kept.image_shape, len(kept.classes), mean=mean, std=std)
    except CannotAttach as exc:
        raise InvalidSettings(f"{recipe_path}: {exc.field}", exc.message) from exc
    batches = Batches(kept, recipe.optimiser.batch, augment=recipe.data, seed=recipe.seed)
    if len(batches) == 0:
        raise InvalidInput("optimiser.batch", f"{recipe.optimiser.batch} of {len(kept)} images")
    callbacks = [
        Progress(),
        # One file, written anew each epoch.
        ModelCheckpoint((out / CHECKPOINT).parent, "last", enable_version_counter=False),
        EMAWeightAveraging(decay=recipe.optimiser.average),
        SetEpoch(batches),
        EpochLog(out / "metrics.csv"),
        *([StopAfter(stop_after)] if stop_after is not None else []),
    ]
    with _quiet():
        trainer = pl.Trainer(
            accelerator="auto",
            precision=precision,
            max_epochs=recipe.optimiser.epochs,
            logger=False,
            callbacks=callbacks,
            enable_model_summary=False,
        )
        trainer.fit(
            JointTraining(network, recipe.weights, recipe.optimiser, recipe.regime),
            batches,
            Batches(held, 500),
            ckpt_path=checkpoint,
            weights_only=True,
        )
    if trainer.current_epoch < recipe.optimiser.epochs:
        return None
    figures = trainer.callback_metrics.items()
    scores = {k: round(float(v), 4) for k, v in sorted(figures) if k.startswith("validation/")}
    provenance = commands | _provenance(recipe, kept, len(held), precision) | {"scores": scores}
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return scores


def _provenance(
    recipe: Recipe, images: ImageSet, held_count: int, precision: Precision
) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "precision": precision,
        "data": {
            "name": images.name,
            "trained_on": len(images),
            "held_out": held_count,
            "image_shape": images.image_shape,
            "classes": images.classes,
            "sha256": images.sha256,
        },
        "versions": {name: version(name) for name in ("offramp", "torch", "lightning")}
        | {"python": platform.python_version()},
    }


def open_run(out: Path) -> Run:
    """The network that a finished run trained. Raises InvalidInput naming what the folder lacks."""
    for name in ("recipe.toml", "provenance.json", CHECKPOINT):
        if not (out / name).exists():
            raise InvalidInput(str(out), f"is no finished run: it lacks {name}")
    recipe = read_recipe(out / "recipe.toml")
    provenance = json.loads((out / "provenance.json").read_text())
    shape, classes = provenance["data"]["image_shape"], provenance["data"]["classes"]
    network = build_network(recipe, tuple(shape), len(classes))
    checkpoint = torch.load(out / CHECKPOINT, weights_only=True, map_location="cpu")
    # The checkpoint is of JointTraining. EMAWeightAveraging puts the moving average into
    # `state_dict`, and the weights that training goes on with into `current_model_state`.
    weights = {k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()}
    network.load_state_dict(weights)
    return Run(network.eval(), recipe, provenance)
