"""The residual networks of 6 n + 2 layers for 32x32 images.

    conv 16 -> n blocks of 16 -> n of 32, half the size -> n of 64, a quarter -> mean -> linear

Source: He et al. 2015, arXiv 1512.03385, section 4.2. Shortcuts have no weights (option A). Names are
those of Yerlan Idelbayev's pytorch_resnet_cifar10 (github.com/akamaster/pytorch_resnet_cifar10), so
that its published weights load, once their prefix `module.` is taken off; images are normalised by
the ImageNet mean and deviation there.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from offramp.models.zoo.settings import BackboneSettings, image_of
from offramp.wire import TensorSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights, in [0, 1]


class _Block(nn.Module):
    """Two 3x3 convolutions; where they narrow, the shortcut takes every second place."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = (width - channels) // 2  # channels of zeros, before and behind

    def forward(self, features: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        if self.stride > 1 or self.padding:
            thinned = features[:, :, :: self.stride, :: self.stride]
            features = F.pad(thinned, (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(residual + features)


class CifarResNet(nn.Module):
    """(N, C, H, W) -> (N, classes); depth is 6 n + 2.

    Submodules to attach exits to: `layer1.0` ... `layer3.<n - 1>`.
    """

    def __init__(self, *, channels: int, classes: int, depth: int = 20) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, blocks)
        self.layer2 = self._layer(16, 32, 2, blocks)
        self.layer3 = self._layer(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _layer(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
        first = _Block(channels, width, stride)
        return nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the last exit."""
        features = torch.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class CifarResNetSettings(BackboneSettings):
    """The arguments of `CifarResNet`."""

    name: Literal["cifar-resnet"]
    depth: Annotated[int, Field(ge=8)] = 20

    @model_validator(mode="after")
    def _whole_blocks(self) -> CifarResNetSettings:
        if (self.depth - 2) % 6:
            raise ValueError(f"depth: {self.depth} is not 6 n + 2, as 20, 32, 44 and 56 are")
        return self

    def build(self, takes: TensorSpec, classes: int) -> CifarResNet:
        """The network for images."""
        channels, _, _ = image_of(takes)
        return CifarResNet(channels=channels, classes=classes, depth=self.depth)
