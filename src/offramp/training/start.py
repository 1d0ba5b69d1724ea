"""Training that goes on from the weights of an earlier run, whose network may have had other parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.errors import InvalidInput
from offramp.models import ExitNetwork, start_codecs
from offramp.training.fit import CHECKPOINT
from offramp.training.recipe import Recipe

FIELD = "--weights-from"
_CODEC_IMAGES = 256  # some ten thousand patches, for at most a few hundred components


def saw_held_out(earlier: Recipe, recipe: Recipe) -> bool:
    """Whether an earlier run may have trained on images that this recipe holds out."""
    theirs, ours = earlier.data, recipe.data
    same_rows = (earlier.seed, theirs.held_out) == (recipe.seed, ours.held_out)
    return theirs.name == ours.name and not same_rows


def start_from(
    network: ExitNetwork, recipe: Recipe, earlier: ExitNetwork, theirs: Recipe, run: Path
) -> dict[str, Any]:
    """Load every weight of an earlier network that fits by name and shape; the rest stays as it is.

    run: the earlier run's folder, for the record that is returned: the hash of its weights, and the
    names of those that are fresh. Raises InvalidInput where none fits, or where the earlier run
    trained on images of this data set that this recipe holds out.
    """
    ours, found = recipe.data, theirs.data
    if saw_held_out(theirs, recipe):
        raise InvalidInput(
            FIELD,
            f"{run} held out {found.held_out:g} of {found.name} under seed {theirs.seed}, so it saw "
            f"images that {ours.held_out:g} under seed {recipe.seed} holds out",
        )
    wanted, given = network.state_dict(), earlier.state_dict()
    fitting = {
        name: weight
        for name, weight in given.items()
        if name in wanted and wanted[name].shape == weight.shape
    }
    if not fitting:
        raise InvalidInput(FIELD, f"{run} has no weight that fits this network")
    network.load_state_dict(fitting, strict=False)
    return {
        "run": str(run),
        "sha256": hashlib.sha256((run / CHECKPOINT).read_bytes()).hexdigest(),
        "loaded": len(fitting),
        "fresh": sorted(wanted.keys() - fitting.keys()),
    }


def start_fresh_codecs(
    network: ExitNetwork, images: NDArray[np.uint8], record: Mapping[str, Any]
) -> None:
    """Start the codecs that no earlier run had by what the boundaries hold of some training images.

    images: (N, H, W, C), taken evenly; record: what `start_from` returned.
    """
    fresh = {int(name.split(".")[1]) for name in record["fresh"] if name.startswith("codecs.")}
    chosen = images[:: max(1, len(images) // _CODEC_IMAGES)][:_CODEC_IMAGES]
    start_codecs(network, torch.from_numpy(chosen), sorted(fresh))
