"""A small residual network for 28x28 and 32x32 images.

Source: He et al. 2015, arXiv 1512.03385, basic blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from offramp.models.zoo.settings import BackboneSettings, Size, Sizes, image_of
from offramp.wire import TensorSpec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, C, H, W) -> (N, K, H/stride, W/stride)."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Identity()
            if channels == width and stride == 1
            else nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Add the shortcut to the residual."""
        residual = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(features)))))
        return torch.relu(residual + self.shortcut(features))


class SmallResNet(nn.Module):
    """A stem, then one basic block a width; a stride of 2 halves the picture.

    Submodules to attach exits to: `stem`, `blocks.0`, `blocks.1`, ...
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        stem: int = 16,
        stem_stride: int = 1,
        widths: Sequence[int] = (32, 64, 96, 96, 128),
        strides: Sequence[int] = (2, 2, 1, 1, 2),
    ) -> None:
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"strides: {len(strides)} for {len(widths)} widths")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, stem, 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        inputs = (stem, *widths[:-1])
        self.blocks = nn.Sequential(
            *(BasicBlock(*shape) for shape in zip(inputs, widths, strides, strict=True))
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the last exit: (N, C, H, W) -> (N, classes)."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(images))))
        return logits


class SmallResNetSettings(BackboneSettings):
    """The arguments of `SmallResNet`."""

    name: Literal["small-resnet"] = "small-resnet"
    stem: Size = 16
    stem_stride: Size = 1
    widths: Sizes = (32, 64, 96, 96, 128)
    strides: Sizes = (2, 2, 1, 1, 2)

    @model_validator(mode="after")
    def _lengths(self) -> SmallResNetSettings:
        if len(self.widths) != len(self.strides):
            raise ValueError("strides: not as many as widths")
        return self

    def build(self, takes: TensorSpec, classes: int) -> SmallResNet:
        """The network for images."""
        channels, _, _ = image_of(takes)
        return SmallResNet(channels=channels, classes=classes, **self.model_dump(exclude={"name"}))
