"""What the settings of every backbone have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from offramp.models.attach import CannotAttach
from offramp.wire import TensorSpec

Size = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]


class BackboneSettings(BaseModel):
    """A backbone's arguments as a recipe gives them; a subclass has its name as a literal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def build(self, takes: TensorSpec, classes: int) -> nn.Module:
        """The untrained backbone for such samples.

        Raises CannotAttach where it cannot take them.
        """
        raise NotImplementedError


def image_of(takes: TensorSpec) -> tuple[int, int, int]:
    """(channels, height, width) of what a backbone sees: uint8 samples are (H, W, C) images.

    Raises CannotAttach where samples are no images.
    """
    if len(takes.shape) != 3:
        raise CannotAttach("backbone.name", f"takes images, not {list(takes.shape)} a sample")
    if takes.dtype == "uint8":
        height, width, channels = takes.shape
    else:
        channels, height, width = takes.shape
    return channels, height, width
