"""MSDNet: every layer works at several scales, so that early layers see coarse features too.

    layer, scale s:  what is there | from scale s | from scale s - 1, strided   -> concatenated
    transition:      the finest scale dropped, the others narrowed to a half

Each layer yields a list of tensors, one a scale and the finest first; exits are fed by the last of
them, the coarsest. Source: Huang et al. 2018 (MSDNet), arXiv 1703.09844, section 4 and appendix A.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, cat, nn

from offramp.models.zoo.settings import BackboneSettings, Size, image_of
from offramp.wire import TensorSpec

Scales = list[Tensor]  # (N, C_s, H / 2^s, W / 2^s) for each scale s, the finest first

_BOTTLENECK = (1, 2, 4)  # width of a 1x1 before a 3x3, in its outputs, by scale (appendix A)
_GROWTH = (1, 2, 4)  # channels that a layer adds at a scale, in growth rates
_HEAD_WIDTH = 128


def _factor(factors: tuple[int, ...], scale: int) -> int:
    return factors[min(scale, len(factors) - 1)]


def _convolution(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _narrow_wide(channels: int, width: int, scale: int, stride: int) -> nn.Sequential:
    """A 1x1 bottleneck, then a 3x3; scale: that of the input."""
    inside = min(channels, _factor(_BOTTLENECK, scale) * width)
    return nn.Sequential(_convolution(channels, inside, 1), _convolution(inside, width, 3, stride))


class _First(nn.Module):
    """An image at every scale: each is a strided convolution of the one before."""

    def __init__(self, channels: int, widths: list[int], stride: int) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        strides = (stride, *[2] * (len(widths) - 1))
        self.scales = nn.ModuleList(
            _convolution(i, o, 3, s) for i, o, s in zip(inputs, widths, strides, strict=True)
        )

    def forward(self, images: Tensor) -> Scales:
        features, scales = images, []
        for layer in self.scales:
            features = layer(features)
            scales.append(features)
        return scales


class _Layer(nn.Module):
    """Adds `growth` channels, times the scale's factor, to each scale; half of them from the finer.

    finest: the number of the finest scale that is still there. widths: channels of those there.
    """

    def __init__(self, widths: list[int], growth: int, finest: int) -> None:
        super().__init__()
        self.own, self.finer = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            scale = finest + k
            added = growth * _factor(_GROWTH, scale)
            own = added if k == 0 else added - added // 2
            self.own.append(_narrow_wide(width, own, scale, 1))
            if k > 0:
                self.finer.append(_narrow_wide(widths[k - 1], added // 2, scale - 1, 2))
        self.widths = [
            width + growth * _factor(_GROWTH, finest + k) for k, width in enumerate(widths)
        ]

    def forward(self, scales: Scales) -> Scales:
        found = [cat([scales[0], self.own[0](scales[0])], 1)]
        for k, finer in enumerate(self.finer, 1):
            added = [finer(scales[k - 1]), self.own[k](scales[k])]
            found.append(cat([scales[k], *added], 1))
        return found


class _Transition(nn.Module):
    """The finest scale dropped, the others narrowed to half their channels."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.widths = [width // 2 for width in widths[1:]]
        self.scales = nn.ModuleList(
            _convolution(width, half, 1)
            for width, half in zip(widths[1:], self.widths, strict=True)
        )

    def forward(self, scales: Scales) -> Scales:
        return [layer(features) for layer, features in zip(self.scales, scales[1:], strict=True)]


class MSDNet(nn.Module):
    """(N, C, H, W) -> (N, classes). Submodules to attach exits to: `layers.0`, `layers.1`, ...

    depth: layers behind the first; they are divided among as many runs as there are scales, and each
    run but the first starts with a transition, which counts as one of `layers`. The last head is the
    paper's: two strided convolutions, mean, linear.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        scales: int = 3,
        depth: int = 12,
        growth: int = 6,
        width: int = 16,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        widths = [width * _factor(_GROWTH, s) for s in range(scales)]
        layers: list[nn.Module] = [_First(channels, widths, stem_stride)]
        for k in range(depth):
            finest = k * scales // depth
            if finest > (k - 1) * scales // depth and k > 0:
                layers.append(transition := _Transition(widths))
                widths = transition.widths
            layers.append(layer := _Layer(widths, growth, finest))
            widths = layer.widths
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            _convolution(widths[-1], _HEAD_WIDTH, 3, 2),
            _convolution(_HEAD_WIDTH, _HEAD_WIDTH, 3, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(_HEAD_WIDTH, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the last exit."""
        logits: Tensor = self.classifier(self.layers(images)[-1])
        return logits


class MSDNetSettings(BackboneSettings):
    """The arguments of `MSDNet`."""

    name: Literal["msdnet"]
    scales: Annotated[int, Field(ge=1, le=4)] = 3
    depth: Size = 12
    growth: Annotated[int, Field(ge=2)] = 6
    width: Annotated[int, Field(ge=2)] = 16
    stem_stride: Size = 1

    @model_validator(mode="after")
    def _a_layer_a_scale(self) -> MSDNetSettings:
        if self.depth < self.scales:
            raise ValueError(f"depth: {self.depth} layers for {self.scales} scales")
        return self

    def build(self, takes: TensorSpec, classes: int) -> MSDNet:
        """The network for images."""
        channels, _, _ = image_of(takes)
        return MSDNet(channels=channels, classes=classes, **self.model_dump(exclude={"name"}))
