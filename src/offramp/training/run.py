"""A run: a folder that holds a recipe, its checkpoints, its log, and what made it.

    recipe.toml --train--> RUN/recipe.toml               the same
                           RUN/placement.json            where exits lie, if the recipe leaves it open
                           RUN/commands.txt              what was called: the first, then resumptions
                           RUN/metrics.csv               loss and accuracy per exit, a line an epoch
                           RUN/checkpoints/last.ckpt     to resume from, written every epoch
                           RUN/trained_on.bin            a fingerprint of each sample, at its end
                           RUN/provenance.json           what made it, written at its end

A run without provenance.json is unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offramp import data
from offramp.data import ImageSet, hold_out
from offramp.errors import InvalidInput, InvalidSettings
from offramp.models import CannotAttach, ExitNetwork, Preparation, attach
from offramp.training.batches import Batches
from offramp.training.fit import CHECKPOINT, Fitting, Precision, network_weights
from offramp.training.placing import choose_places, place_for_run, placed, record
from offramp.training.provenance import Made, record_command
from offramp.training.recipe import Recipe, read_recipe, recipe_text
from offramp.training.regimes import Context, Distillation, Regime, build_regime
from offramp.training.start import saw_held_out, start_fresh_codecs, start_from
from offramp.wire import TensorSpec


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
    takes = TensorSpec(name="image", dtype="uint8", shape=image_shape)
    network = attach(
        recipe.backbone.build(takes, classes),
        [exit_.exit_at(gate=recipe.regime.gated) for exit_ in recipe.exits],
        prepare=Preparation(mean or [0.0] * channels, std or [1.0] * channels),
        takes=takes,
    )
    return laid_out(network)


def laid_out(network: ExitNetwork) -> ExitNetwork:
    """The same network with channels last, in which a processor convolves faster, unless it would then go wrong.

    With AVX2 and no AVX-512, the gradient of a 1x1 convolution with a stride and fewer than 8 input channels makes
    oneDNN (of torch 2.13) write beyond its memory: the process aborts, or hangs where it has several threads.
    """
    if any(_goes_wrong(one) for one in network.modules() if isinstance(one, nn.Conv2d)):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _goes_wrong(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < 8


def load_split(recipe: Recipe, split: data.Split, folder: Path | None = None) -> ImageSet:
    """The training or test images of a recipe, in the encoding that it asks for."""
    whole = data.load(recipe.data.name, split, folder)
    encode = recipe.data.encode
    return whole if encode is None else data.reencode(whole, encode.media_type, encode.quality)


def _split(recipe: Recipe, folder: Path | None) -> tuple[ImageSet, ImageSet]:
    whole = load_split(recipe, "train", folder)
    kept, held = hold_out(len(whole), recipe.data.held_out, recipe.seed)
    return whole.take(kept), whole.take(held)


def held_out(recipe: Recipe, folder: Path | None = None) -> ImageSet:
    """The part of the training data that training under this recipe does not see."""
    return _split(recipe, folder)[1]


def _normalisation(images: ImageSet, recipe: Recipe) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel, of values in [0, 1]: the recipe's, else the images'.

    Raises InvalidSettings where the recipe's are not one a channel.
    """
    given = recipe.data
    if given.mean is not None and given.std is not None:
        if not len(given.mean) == len(given.std) == images.image_shape[2]:
            channels = images.image_shape[2]
            raise InvalidSettings(
                "data.mean", f"mean and std are not one for each of {channels} channels"
            )
        return given.mean, given.std
    pixels = images.images.reshape(-1, images.images.shape[-1])
    return (pixels.mean(0) / 255.0).tolist(), (pixels.std(0) / 255.0).tolist()


def plan(recipe_path: Path, folder: Path | None = None) -> dict[str, Any]:
    """Where the recipe's backbone can have exits and where it has them, as placement.json says it.

    Raises InvalidSettings where the recipe does not fit its data or its backbone.
    """
    recipe = read_recipe(recipe_path)
    kept, _ = _split(recipe, folder)
    mean, std = _normalisation(kept, recipe)
    try:
        return record(recipe, *choose_places(recipe, kept, mean, std, folder))
    except (CannotAttach, InvalidSettings) as exc:
        raise InvalidSettings(f"{recipe_path}: {exc.field}", exc.message) from exc


def _prepare_folder(recipe_path: Path, out: Path, *, seed: int | None, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any; `out` then holds the recipe, with that seed.

    Raises InvalidInput as `train` does.
    """
    checkpoint = out / CHECKPOINT
    if not resume:
        if checkpoint.exists():
            raise InvalidInput("--out", f"{out} holds a run; --resume goes on with it")
        try:
            out.mkdir(parents=True, exist_ok=True)
            if recipe_path.resolve() == (out / "recipe.toml").resolve():
                message = f"{out} holds the recipe itself; --resume makes the run there"
                raise InvalidInput("--out", message)
            (out / "recipe.toml").write_text(recipe_text(recipe_path, seed), encoding="utf-8")
        except OSError as exc:
            raise InvalidInput("--out", f"{out} cannot be written: {exc.strerror}") from exc
        return None
    if (out / "provenance.json").exists():
        raise InvalidInput("--resume", f"{out} is finished")
    if read_recipe(out / "recipe.toml") != read_recipe(recipe_path, seed):
        raise InvalidInput("--resume", f"{out} was made by another recipe")
    return checkpoint if checkpoint.exists() else None


def _regime(recipe: Recipe, network: ExitNetwork, kept: ImageSet, folder: Path | None) -> Regime:
    """The recipe's regime for this network. Raises InvalidSettings naming what does not fit."""
    teacher = None
    if isinstance(recipe.regime, Distillation) and recipe.regime.teacher is not None:
        run = open_run(Path(recipe.regime.teacher))
        if saw_held_out(run.recipe, recipe):
            raise InvalidSettings("regime.teacher", "saw images that this recipe holds out")
        theirs = run.provenance["data"]
        ours = {"image_shape": list(kept.image_shape), "classes": list(kept.classes)}
        if any(theirs[key] != value for key, value in ours.items()):
            raise InvalidSettings("regime.teacher", "was trained on other inputs or classes")
        teacher = run.network
    context = Context(
        network=network,
        weights=recipe.weights,
        epochs=recipe.optimiser.epochs,
        folder=folder,
        teacher=teacher,
    )
    return build_regime(recipe.regime, context)


def train(
    recipe_path: Path,
    out: Path,
    *,
    folder: Path | None = None,
    seed: int | None = None,
    weights_from: Path | None = None,
    resume: bool = False,
    precision: Precision = "bf16-mixed",
    stop_after: int | None = None,
    command: str = "",
) -> dict[str, float] | None:
    """Train as the recipe says; `out` then holds the run. Scores of each exit on the part held out.

    seed: in place of the recipe's; the run's recipe then has it. weights_from: an earlier run's
    folder, whose weights this one begins with where they fit; new codecs then begin as the principal
    components of their boundaries. resume: go on from the run's last
    checkpoint, which every epoch writes. stop_after: end after that many epochs of this call, to be
    resumed; the run is unfinished then, and the result None. command: what called this, for the
    provenance; a resumed run keeps the first.
    Raises InvalidInput where `out` holds a run and is not to be resumed, is to be and is finished,
    or was made by another recipe; InvalidSettings where the recipe's exits or regime do not fit its
    backbone.
    """
    recipe = read_recipe(recipe_path, seed)
    checkpoint = _prepare_folder(recipe_path, out, seed=seed, resume=resume)
    commands = record_command(out, command, resume=resume)
    kept, held = _split(recipe, folder)
    mean, std = _normalisation(kept, recipe)
    try:
        recipe = place_for_run(recipe, out, kept, mean, std, folder)
        torch.manual_seed(recipe.seed)
        network = build_network(recipe, kept.image_shape, len(kept.classes), mean=mean, std=std)
    except (CannotAttach, InvalidSettings) as exc:
        raise InvalidSettings(f"{recipe_path}: {exc.field}", exc.message) from exc
    start: dict[str, Any] = {}
    if weights_from is not None:
        earlier = open_run(weights_from)
        start["weights_from"] = start_from(
            network, recipe, earlier.network, earlier.recipe, weights_from
        )
        start_fresh_codecs(network, kept.images, start["weights_from"])
    try:
        regime = _regime(recipe, network, kept, folder)
    except InvalidSettings as exc:
        raise InvalidSettings(f"{recipe_path}: {exc.field}", exc.message) from exc
    batches = Batches(kept, recipe.optimiser.batch, augment=recipe.data, seed=recipe.seed)
    if len(batches) == 0:
        raise InvalidInput("optimiser.batch", f"{recipe.optimiser.batch} of {len(kept)} images")
    fitting = Fitting(
        network=network,
        optimiser=recipe.optimiser,
        batches=batches,
        held=Batches(held, 500),
        out=out,
        precision=precision,
    )
    scores = fitting.run(regime, checkpoint=checkpoint, stop_after=stop_after)
    if scores is not None:
        Made(
            recipe=recipe,
            trained_on=kept,
            held_out=len(held),
            precision=precision,
            folder=folder,
            phases=regime.phases,
        ).write(out, commands | start, scores)
    return scores


def open_run(out: Path) -> Run:
    """The network that a finished run trained. Raises InvalidInput naming what the folder lacks."""
    for name in ("recipe.toml", "provenance.json", CHECKPOINT):
        if not (out / name).exists():
            raise InvalidInput(str(out), f"is no finished run: it lacks {name}")
    recipe = placed(read_recipe(out / "recipe.toml"), out)
    provenance = json.loads((out / "provenance.json").read_text())
    shape, classes = provenance["data"]["image_shape"], provenance["data"]["classes"]
    network = build_network(recipe, tuple(shape), len(classes))
    checkpoint = torch.load(out / CHECKPOINT, weights_only=True, map_location="cpu")
    network.load_state_dict(network_weights(checkpoint))
    return Run(network.eval(), recipe, provenance)
