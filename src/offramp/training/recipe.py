"""A recipe: everything that decides a trained network, in one TOML file of plain values."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import InvalidSettings
from offramp.models import CodecSpec, ExitAt, HeadSpec

_STRICT = ConfigDict(frozen=True, extra="forbid")
_Size = Annotated[int, Field(ge=1)]


class Data(BaseModel):
    """The data set, the share held out for calibration, and the augmentation of the rest."""

    model_config = _STRICT
    name: str
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    shift: Annotated[int, Field(ge=0)] = 2  # pixels, each way
    flip: bool = True
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of images that lose a rectangle


class Backbone(BaseModel):
    """The arguments of `SmallResNet`; channels and classes come from the data."""

    model_config = _STRICT
    stem: Annotated[int, Field(ge=1)] = 16
    stem_stride: Annotated[int, Field(ge=1)] = 1
    widths: Annotated[tuple[_Size, ...], Field(min_length=1)] = (32, 64, 96, 96, 128)
    strides: Annotated[tuple[_Size, ...], Field(min_length=1)] = (2, 2, 1, 1, 2)


class Exit(BaseModel):
    """One attached exit; `weight` is its share in the joint loss."""

    model_config = _STRICT
    at: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    head: HeadSpec = HeadSpec()
    codec: CodecSpec | None = None

    def exit_at(self) -> ExitAt:
        """The same, as `attach` takes it."""
        return ExitAt(at=self.at, head=self.head, codec=self.codec)


class Joint(BaseModel):
    """All exits at once: the weighted sum of their cross-entropies."""

    model_config = _STRICT
    kind: Literal["joint"] = "joint"


class Distillation(BaseModel):
    """Jointly, and every early exit also learns the last exit's softened probabilities.

    Its loss is (1 - share) * cross-entropy + share * temperature^2 * KL(last || early).
    Source: Hinton et al. 2015, arXiv 1503.02531; between exits, Phuong and Lampert 2019 (ICCV).
    """

    model_config = _STRICT
    kind: Literal["distillation"]
    temperature: Annotated[float, Field(gt=0)] = 3.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


Regime = Annotated[Joint | Distillation, Field(discriminator="kind")]


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
    backbone: Backbone = Backbone()
    exits: Annotated[tuple[Exit, ...], Field(min_length=1)]
    regime: Regime = Joint()
    optimiser: Optimiser

    @model_validator(mode="after")
    def _lengths(self) -> Recipe:
        if len(self.backbone.widths) != len(self.backbone.strides):
            raise ValueError("backbone.strides: not as many as backbone.widths")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of every exit in the joint loss, the final one last."""
        return (*(e.weight for e in self.exits), self.final_weight)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file. Raises InvalidSettings naming the file and the key."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise InvalidSettings(str(path), f"cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidSettings(str(path), str(exc)) from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise InvalidSettings(f"{path}: {key}", first["msg"]) from exc
