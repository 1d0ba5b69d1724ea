"""Image classifiers of Hugging Face's `transformers`, by their name on the hub or by a folder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from offramp.models.attach import CannotAttach
from offramp.models.zoo.settings import BackboneSettings, image_of
from offramp.wire import TensorSpec


def huggingface(
    model: str, classes: int, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> nn.Module:
    """The image classifier of that name, or of a folder that `save_pretrained` wrote.

    pretrained: with its weights, and a new last layer where its classes are other than `classes`;
    else only what its configuration says. config: values of its configuration to replace, such as
    image_size. Raises CannotAttach where it cannot be had or is no image classifier.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as exc:
        raise CannotAttach("backbone.name", "needs the package `transformers`") from exc
    try:
        found = AutoConfig.from_pretrained(model, **(config or {}) | {"num_labels": classes})
        auto: Any = AutoModelForImageClassification
        network: nn.Module = (
            auto.from_pretrained(model, config=found, ignore_mismatched_sizes=True)
            if pretrained
            else auto.from_config(found)
        )
    except (OSError, ValueError, KeyError) as exc:
        raise CannotAttach("backbone.model", str(exc).strip().partition("\n")[0]) from exc
    return network


class HuggingFaceSettings(BackboneSettings):
    """The arguments of `huggingface`; `model` is a name on the hub or a folder."""

    name: Literal["huggingface"]
    model: str
    pretrained: bool = False
    config: dict[str, int | float | str | bool] = Field(default_factory=dict)

    def build(self, takes: TensorSpec, classes: int) -> nn.Module:
        """The network for images."""
        image_of(takes)
        return huggingface(
            self.model, classes, pretrained=self.pretrained, config=dict(self.config)
        )
