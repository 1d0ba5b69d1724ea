"""Exits for a recipe that leaves their places open, chosen once a run.

    recipe with [placement] --candidates, rule--> RUN/placement.json --> the recipe with [[exits]]

The rule `utility` probes a backbone that has weights already, on training images alone: what is held
out stays unseen. Last exits look better on images that they were trained on than on others, so that
places may come out later than new images would have them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from offramp.data import ImageSet
from offramp.errors import InvalidSettings
from offramp.exits.placement import place_greedily
from offramp.models import CannotAttach, ExitAt, HeadSpec, Preparation
from offramp.models.attach import check_names
from offramp.models.placement import Candidate, Candidates, find_candidates, place_at_equal_flops
from offramp.models.probe import probe
from offramp.models.zoo.huggingface import HuggingFaceSettings
from offramp.training.recipe import Exit, Placement, Recipe
from offramp.training.regimes.classifier_wise import ClassifierWise, load_backbone
from offramp.wire import TensorSpec

PLACEMENT = Path("placement.json")


def _trained(recipe: Recipe, backbone: nn.Module, folder: Path | None) -> nn.Module:
    """The backbone with the weights that the recipe names."""
    regime = recipe.regime
    if isinstance(regime, ClassifierWise) and regime.backbone_weights is not None:
        load_backbone(backbone, (folder or Path()) / regime.backbone_weights)
    elif not (isinstance(recipe.backbone, HuggingFaceSettings) and recipe.backbone.pretrained):
        raise InvalidSettings(
            "placement.rule",
            "utility probes a trained backbone: give regime.backbone_weights, or use equal-flops",
        )
    return backbone.eval()


def _by_utility(
    placement: Placement,
    backbone: nn.Module,
    candidates: Candidates,
    images: ImageSet,
    prepare: Preparation,
    seed: int,
) -> tuple[Candidate, ...]:
    rows = np.random.default_rng(seed).permutation(len(images))[: placement.images]
    probed = probe(
        backbone,
        candidates,
        torch.from_numpy(images.images[rows]),
        torch.from_numpy(images.labels[rows].astype(np.int64)),
        prepare=prepare,
    )
    steps = place_greedily(probed, placement.count, max_drop=placement.max_drop)
    if not steps:
        raise CannotAttach("placement", "no exit lowers the expected cost at this max_drop")
    return tuple(candidates.places[m] for m in sorted(step.candidate for step in steps))


def candidates_of(
    recipe: Recipe, images: ImageSet, mean: Sequence[float], std: Sequence[float]
) -> tuple[nn.Module, Preparation, Candidates]:
    """A recipe's backbone without its weights, its preparation, and where exits can be.

    The exits tried have the head and the codec of its `placement`, or those of its first exit.
    """
    takes = TensorSpec(name="image", dtype="uint8", shape=images.image_shape)
    torch.manual_seed(recipe.seed)
    backbone = recipe.backbone.build(takes, len(images.classes))
    prepare = Preparation(mean, std)
    first = recipe.placement or next(iter(recipe.exits), None)
    like = ExitAt(at="", head=HeadSpec(kind="pool"))
    if first is not None:
        like = ExitAt(at="", head=first.head, codec=first.codec, gate=recipe.regime.gated)
    return backbone, prepare, find_candidates(backbone, like, prepare=prepare, takes=takes)


def choose_places(
    recipe: Recipe,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    folder: Path | None = None,
) -> tuple[tuple[str, ...], Candidates]:
    """Where the recipe's exits lie, and where they could.

    images: those trained on. folder: where the backbone's weights are looked up. Raises CannotAttach
    and InvalidSettings where the recipe's rule cannot be followed.
    """
    backbone, prepare, candidates = candidates_of(recipe, images, mean, std)
    placement = recipe.placement
    if placement is None:
        named = tuple(e.at for e in recipe.exits)
        check_names(backbone, named)
        return named, candidates
    if placement.rule == "equal-flops":
        chosen = place_at_equal_flops(candidates, placement.count)
    else:
        trained = _trained(recipe, backbone, folder)
        chosen = _by_utility(placement, trained, candidates, images, prepare, recipe.seed)
    return tuple(place.at for place in chosen), candidates


def record(recipe: Recipe, chosen: Sequence[str], candidates: Candidates) -> dict[str, Any]:
    """The rule, the backbone's FLOPs, and a row a place: features, FLOPs up to it and of an exit.

    Exits that a recipe has at other submodules, as inside of a residual block, are `elsewhere`.
    """
    places = [
        {
            "at": place.at,
            "features": [list(shape) for shape in place.attachment.features.shapes],
            "flops": place.flops,
            "share": round(place.flops / candidates.flops, 4),
            "exit_flops": place.own_flops,
            "chosen": place.at in chosen,
        }
        for place in candidates.places
    ]
    rule = recipe.placement
    return {
        "placement": rule.model_dump(mode="json") if rule is not None else None,
        "flops": candidates.flops,
        "places": places,
        "elsewhere": [at for at in chosen if at not in {row["at"] for row in places}],
    }


def _with_exits(recipe: Recipe, places: Sequence[str]) -> Recipe:
    placement = recipe.placement
    assert placement is not None  # noqa: S101 (narrows the type)
    exits = tuple(Exit(at=at, head=placement.head, codec=placement.codec) for at in places)
    return recipe.model_copy(update={"exits": exits, "placement": None})


def placed(recipe: Recipe, run: Path) -> Recipe:
    """The recipe of a run with the exits that were placed for it; itself if it names its exits."""
    if recipe.placement is None:
        return recipe
    try:
        written = json.loads((run / PLACEMENT).read_text(encoding="utf-8"))
        places = [row["at"] for row in written["places"] if row["chosen"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidSettings(str(run / PLACEMENT), "cannot be read; train anew") from exc
    return _with_exits(recipe, places)


def place_for_run(
    recipe: Recipe,
    run: Path,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    folder: Path | None,
) -> Recipe:
    """`placed`, once the places are chosen and written into the run's folder if they are not yet."""
    if recipe.placement is None or (run / PLACEMENT).exists():
        return placed(recipe, run)
    chosen, candidates = choose_places(recipe, images, mean, std, folder)
    text = json.dumps(record(recipe, chosen, candidates), indent=2) + "\n"
    (run / PLACEMENT).write_text(text, encoding="utf-8")
    return placed(recipe, run)
