"""Classifier-wise training: the backbone by itself or as it was published, then the exits on it.

    backbone, codecs --(loss of the last exit)--> frozen --> heads --(loss of each)-->
    published weights --------------------------> frozen --> heads, codecs -->

Frozen is to the bit, statistics of norms included: without codecs the last exit answers exactly as
the backbone alone does. Source: Baccarelli et al. 2020, Information Sciences 521.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from offramp.errors import InvalidSettings
from offramp.training.regimes.regime import Context, Phase, Regime, RegimeSettings, phase

_FIELD = "regime.backbone_weights"


class ClassifierWise(RegimeSettings):
    """With `backbone_weights` the backbone is not trained here at all.

    backbone_weights: a state_dict (.safetensors, or .pt and the like), looked up in the data's
    folder where one is given. backbone_share: of the epochs, spent on the backbone without them.
    """

    kind: Literal["classifier-wise"]
    backbone_weights: str | None = None
    backbone_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as exc:
        raise InvalidSettings(_FIELD, f"{path} needs the package safetensors") from exc
    try:
        return dict(load_file(path))
    except SafetensorError as exc:
        raise ValueError(str(exc)) from exc


def _read(path: Path) -> dict[str, Any]:
    """The state_dict of a file. Raises InvalidSettings where it is none."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise InvalidSettings(_FIELD, f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as exc:
        raise InvalidSettings(_FIELD, f"{path} holds no weights") from exc
    found = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InvalidSettings(_FIELD, f"{path} holds no state_dict")
    return found


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """The backbone then has the weights of a file, every one of them.

    A prefix that all names of the file have, as data-parallel training leaves one, is taken off.
    Raises InvalidSettings that names a weight which is missing, is too many, or has another shape.
    """
    found, wanted = _read(path), backbone.state_dict()
    prefix = next((name[: -len(w)] for w in wanted for name in found if name.endswith(f".{w}")), "")
    if all(name.startswith(prefix) for name in found):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    for what, names in (
        ("lacks", [n for n in wanted if n not in found and not n.endswith("num_batches_tracked")]),
        ("has more than the backbone:", [n for n in found if n not in wanted]),
        (
            "has another shape of",
            [n for n in found if n in wanted and found[n].shape != wanted[n].shape],
        ),
    ):
        if names:
            raise InvalidSettings(_FIELD, f"{path} {what} {names[0]!r}, {len(names)} in all")
    backbone.load_state_dict(wanted | found)


def _phases(settings: ClassifierWise, context: Context) -> list[Phase]:
    early, last = range(context.network.exit_count - 1), context.network.exit_count - 1
    if settings.backbone_weights is not None:
        path = (context.folder or Path()) / settings.backbone_weights
        load_backbone(context.network.backbone, path)
        return [phase(context, "exits", context.epochs, where=lambda p: p.kind != "backbone")]
    alone = max(1, round(context.epochs * settings.backbone_share))
    if alone == context.epochs:
        raise InvalidSettings("optimiser.epochs", f"{alone} leaves none to the exits")
    return [
        phase(
            context,
            "backbone",
            alone,
            exits=[last],
            where=lambda p: p.kind in ("backbone", "codec"),
        ),
        phase(
            context,
            "exits",
            context.epochs - alone,
            exits=early,
            where=lambda p: p.kind in ("head", "gate"),
        ),
    ]


class ClassifierWiseRegime(Regime):
    """The exits learn on a backbone that they do not change."""

    def __init__(self, settings: ClassifierWise, context: Context) -> None:
        if not context.network.exits:
            raise InvalidSettings("exits", "classifier-wise training needs at least one")
        super().__init__(context, _phases(settings, context))
