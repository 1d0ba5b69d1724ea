"""Backbones by name, a file each; none of them knows of exits, which are attached to any network.

To add one: a module with the network and its `BackboneSettings`, and a line in `Backbone` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag, TypeAdapter
from torch import nn

from offramp.models.zoo.cifar_resnet import CifarResNet, CifarResNetSettings
from offramp.models.zoo.huggingface import HuggingFaceSettings, huggingface
from offramp.models.zoo.mobilenet import MobileNetV2, MobileNetV2Settings
from offramp.models.zoo.msdnet import MSDNet, MSDNetSettings
from offramp.models.zoo.recurrent import RecurrentClassifier, RecurrentSettings
from offramp.models.zoo.settings import BackboneSettings
from offramp.models.zoo.small_resnet import SmallResNet, SmallResNetSettings
from offramp.models.zoo.vision_transformer import VisionTransformer, VisionTransformerSettings
from offramp.wire import TensorSpec


def _name(settings: Any) -> Any:
    """The name that chooses the settings; a recipe that gives none means the small ResNet."""
    if isinstance(settings, Mapping):
        return settings.get("name", "small-resnet")
    return getattr(settings, "name", None)


_Settings = (
    Annotated[SmallResNetSettings, Tag("small-resnet")]
    | Annotated[CifarResNetSettings, Tag("cifar-resnet")]
    | Annotated[MobileNetV2Settings, Tag("mobilenet-v2")]
    | Annotated[MSDNetSettings, Tag("msdnet")]
    | Annotated[VisionTransformerSettings, Tag("vision-transformer")]
    | Annotated[RecurrentSettings, Tag("recurrent")]
    | Annotated[HuggingFaceSettings, Tag("huggingface")]
)
_NAMES = [tag.tag for settings in get_args(_Settings) for tag in settings.__metadata__]
Backbone = Annotated[
    _Settings,
    Discriminator(
        _name,
        custom_error_type="unknown_backbone",
        custom_error_message=f"name: none of {', '.join(_NAMES)}",
    ),
]
_ADAPTER: TypeAdapter[BackboneSettings] = TypeAdapter(Backbone)


def build_backbone(
    name: str, arguments: Mapping[str, Any], takes: TensorSpec, classes: int
) -> nn.Module:
    """The untrained backbone of that name, for such samples.

    Raises pydantic's ValidationError, a ValueError, where the name or an argument is unknown or out
    of range; CannotAttach where it cannot take the samples. Example:

        build_backbone("cifar-resnet", {"depth": 56}, image, 10)
    """
    return _ADAPTER.validate_python({**arguments, "name": name}).build(takes, classes)


__all__ = [
    "Backbone",
    "BackboneSettings",
    "CifarResNet",
    "MSDNet",
    "MobileNetV2",
    "RecurrentClassifier",
    "SmallResNet",
    "SmallResNetSettings",
    "VisionTransformer",
    "build_backbone",
    "huggingface",
]
