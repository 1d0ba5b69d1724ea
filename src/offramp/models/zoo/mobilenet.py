"""MobileNetV2: inverted residual blocks, wide inside and narrow between.

    3x3, stride -> 17 blocks in 7 groups -> 1x1 to 1280 -> mean -> linear

Source: Sandler et al. 2018, arXiv 1801.04381, table 2 and figure 4(d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from offramp.models.zoo.settings import BackboneSettings, Size, image_of
from offramp.wire import TensorSpec

_GROUPS = (  # expansion, channels, blocks; the stride of a group is its first block's
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
)
CIFAR_STRIDES = (1, 1, 1, 2, 2, 1, 2, 1)  # 32x32 images end as 4x4, not as 1x1


def _divisible(channels: float) -> int:
    """The nearest multiple of 8, at most a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _convolution(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    ]


class _InvertedResidual(nn.Module):
    """1x1 wider, 3x3 a channel, 1x1 narrower without activation; a shortcut where shapes agree."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = channels * expansion
        self.layers = nn.Sequential(
            *(_convolution(channels, inside, 1) if expansion > 1 else []),
            *_convolution(inside, inside, 3, stride, groups=inside),
            nn.Conv2d(inside, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.layers(features)
        return features + residual if self.has_shortcut else residual


class MobileNetV2(nn.Module):
    """(N, C, H, W) -> (N, classes). Submodules to attach exits to: `blocks.0` ... `blocks.16`.

    width: multiplies every number of channels. strides: of the first convolution and of the seven
    groups of blocks.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        width: float = 1.0,
        strides: Sequence[int] = CIFAR_STRIDES,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if len(strides) != len(_GROUPS) + 1:
            raise ValueError(f"strides: {len(strides)}, not {len(_GROUPS) + 1}")
        inputs = _divisible(32 * width)
        self.stem = nn.Sequential(*_convolution(channels, inputs, 3, strides[0]))
        blocks = []
        for (expansion, outputs, count), stride in zip(_GROUPS, strides[1:], strict=True):
            for k in range(count):
                wide = _divisible(outputs * width)
                blocks.append(_InvertedResidual(inputs, wide, 1 if k else stride, expansion))
                inputs = wide
        self.blocks = nn.Sequential(*blocks)
        last = _divisible(1280 * max(1.0, width))
        self.last = nn.Sequential(*_convolution(inputs, last, 1))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(last, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the last exit."""
        logits: Tensor = self.classifier(self.last(self.blocks(self.stem(images))))
        return logits


class MobileNetV2Settings(BackboneSettings):
    """The arguments of `MobileNetV2`."""

    name: Literal["mobilenet-v2"]
    width: Annotated[float, Field(gt=0)] = 1.0
    strides: Annotated[tuple[Size, ...], Field(min_length=8, max_length=8)] = CIFAR_STRIDES
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def build(self, takes: TensorSpec, classes: int) -> MobileNetV2:
        """The network for images."""
        channels, _, _ = image_of(takes)
        return MobileNetV2(channels=channels, classes=classes, **self.model_dump(exclude={"name"}))
