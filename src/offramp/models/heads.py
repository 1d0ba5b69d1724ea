"""Exit heads: small classifiers from a point of the backbone to the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """The shape of a head.

    `pool` is average and linear; `conv` a strided convolution to `width` before them.
    """

    kind: Literal["pool", "conv"] = "conv"
    width: int = 128

    def __post_init__(self) -> None:
        if self.kind not in ("pool", "conv"):
            raise ValueError(f"head.kind: {self.kind!r} is neither 'pool' nor 'conv'")
        if self.width < 1:
            raise ValueError(f"head.width: {self.width} is not at least 1")


class ExitHead(nn.Sequential):
    """Logits from features: (N, C, H, W) -> (N, classes)."""

    def __init__(self, features: int, classes: int, spec: HeadSpec) -> None:
        layers: list[nn.Module] = []
        if spec.kind == "conv":
            layers += [
                nn.Conv2d(features, spec.width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(spec.width),
                nn.ReLU(inplace=True),
            ]
        width = spec.width if spec.kind == "conv" else features
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
        super().__init__(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, not probabilities: temperature and softmax belong to the exit policy."""
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits
