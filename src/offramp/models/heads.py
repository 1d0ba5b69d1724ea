"""Exit heads: small classifiers from a point of the backbone to the classes.

N samples, C channels, H x W places, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """The shape of a head.

    `pool` is average (over places or tokens, if any) and linear; `conv` a strided convolution to
    `width` before them, for (N, C, H, W) only.
    """

    kind: Literal["pool", "conv"] = "conv"
    width: int = 128

    def __post_init__(self) -> None:
        if self.kind not in ("pool", "conv"):
            raise ValueError(f"head.kind: {self.kind!r} is neither 'pool' nor 'conv'")
        if self.width < 1:
            raise ValueError(f"head.width: {self.width} is not at least 1")


class _TokenMean(nn.Module):
    """(N, T, C) -> (N, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class ExitHead(nn.Sequential):
    """Logits from features: (N, C, H, W), tokens (N, T, C) or vectors (N, C) -> (N, classes).

    shape: of one sample's features, so its length says which. Raises ValueError where the spec or
    the head cannot take it.
    """

    def __init__(self, shape: Sequence[int], classes: int, spec: HeadSpec) -> None:
        if len(shape) not in (1, 2, 3):
            raise ValueError(f"head: no head takes features of {tuple(shape)} a sample")
        if spec.kind == "conv" and len(shape) != 3:
            raise ValueError(
                f"head.kind: 'conv' takes (C, H, W) features, not {tuple(shape)}; 'pool' takes them"
            )
        features = shape[0] if len(shape) == 3 else shape[-1]
        layers: list[nn.Module] = []
        if spec.kind == "conv":
            layers += [
                nn.Conv2d(features, spec.width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(spec.width),
                nn.ReLU(inplace=True),
            ]
        width = spec.width if spec.kind == "conv" else features
        pooling: tuple[tuple[nn.Module, ...], ...] = (
            (),
            (_TokenMean(),),
            (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        super().__init__(*layers, *pooling[len(shape) - 1], nn.Linear(width, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, not probabilities: temperature and softmax belong to the exit policy."""
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits
