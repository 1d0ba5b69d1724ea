"""A recipe: everything that decides a trained network, in one TOML file of plain values."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import InvalidSettings
from offramp.models import CodecSpec, ExitAt, HeadSpec
from offramp.models.zoo import Backbone, SmallResNetSettings
from offramp.training.regimes import Joint, Settings
from offramp.validation import first_flaw

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Encode(BaseModel):
    """A lossy image format that all images go through first, to compare with sending them so."""

    model_config = _STRICT
    media_type: Literal["image/jpeg", "image/webp"]
    quality: Annotated[int, Field(ge=1, le=95)]


class Data(BaseModel):
    """The data set, the share held out for calibration, and the augmentation of the rest."""

    model_config = _STRICT
    name: str
    encode: Encode | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    shift: Annotated[int, Field(ge=0)] = 2  # pixels, each way
    flip: bool = True
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of images that lose a rectangle
    # Per channel, of values in [0, 1]; by default those of the images trained on. Published weights
    # need the ones that they were trained with.
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None

    @model_validator(mode="after")
    def _both(self) -> Data:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: one is given without the other")
        return self


class Exit(BaseModel):
    """One attached exit; `weight` is its share in the joint loss."""

    model_config = _STRICT
    at: str
    tensor: int | None = None  # of several, the one that feeds the head; by default the coarsest
    weight: Annotated[float, Field(gt=0)] = 1.0
    head: HeadSpec = HeadSpec()
    codec: CodecSpec | None = None

    def exit_at(self, *, gate: bool) -> ExitAt:
        """The same, as `attach` takes it."""
        return ExitAt(at=self.at, head=self.head, codec=self.codec, tensor=self.tensor, gate=gate)


class Placement(BaseModel):
    """Exits at places that are chosen, all with one head and one codec.

    rule: `equal-flops` divides the backbone's FLOPs evenly; `utility` adds, greedily, the exit that
    lowers the expected cost most, and may find that fewer than `count` are worth it. max_drop: of
    accuracy, and images: how many of those trained on are probed; both for `utility`.
    """

    model_config = _STRICT
    rule: Literal["equal-flops", "utility"]
    count: Annotated[int, Field(ge=1)]
    head: HeadSpec = HeadSpec()
    codec: CodecSpec | None = None
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    images: Annotated[int, Field(ge=100)] = 2000


class Optimiser(BaseModel):
    """SGD with Nesterov momentum under one learning-rate cycle.

    Source: Smith and Topin 2017, arXiv 1708.07120.
    """

    model_config = _STRICT
    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)] = 256
    peak_rate: Annotated[float, Field(gt=0)] = 0.3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = (
        0.998  # decay of the moving average of the weights
    )


class Recipe(BaseModel):
    """Data, network and optimiser, and the seed of all chance."""

    model_config = _STRICT
    seed: int = 1
    final_weight: Annotated[float, Field(gt=0)] = 1.0
    data: Data
    backbone: Backbone = SmallResNetSettings()
    exits: tuple[Exit, ...] = ()  # none: the backbone by itself, to compare with
    placement: Placement | None = None
    regime: Settings = Joint()
    optimiser: Optimiser

    @model_validator(mode="after")
    def _exits_one_way(self) -> Recipe:
        if ("exits" in self.model_fields_set) == (self.placement is not None):
            raise ValueError("give either exits or placement")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of every exit in the joint loss, the final one last."""
        return (*(e.weight for e in self.exits), self.final_weight)


def recipe_text(path: Path, seed: int | None = None) -> str:
    """The text of a recipe's file, with that seed in place of its own where one is given.

    Raises InvalidSettings naming the file where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidSettings(str(path), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSettings(str(path), str(exc)) from exc
    if seed is None:
        return text
    # The keys of a TOML file that are in no table stand before the first one.
    before, tables = re.split(r"(?m)^(?=\[)|\Z", text, maxsplit=1)
    before = re.sub(r"(?m)^\s*seed\s*=.*\n?", "", before)
    return f"seed = {seed}\n{before}{tables}"


def _written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where in a recipe an error is; pydantic puts in which of several models it had chosen."""
    table, *rest = location or ("",)
    return (table, *rest[1:]) if table in ("backbone", "regime") else location


def read_recipe(path: Path, seed: int | None = None) -> Recipe:
    """The recipe of a TOML file, with that seed in place of its own where one is given.

    Raises InvalidSettings naming the file and the key.
    """
    try:
        return Recipe.model_validate(tomllib.loads(recipe_text(path, seed)))
    except tomllib.TOMLDecodeError as exc:
        raise InvalidSettings(str(path), str(exc)) from exc
    except ValidationError as exc:
        flaw = first_flaw(exc)
        flaw = flaw._replace(location=_written(flaw.location))
        raise InvalidSettings(f"{path}: {flaw.key or '(whole file)'}", flaw.text) from exc
