"""The wire codec: a trained pair of small layers that make a boundary few bits on the wire.

    features --encoder--> levels in [0, top] --round--> uint8 codes ~wire~> --decoder--> features
      (N, C, H, W)        (N, K, H/s, W/s)              top = 2^bits - 1        (N, C, H, W)

Rounding has no gradient; in training the decoder sees the rounded levels and the encoder receives
the decoder's gradient unchanged (the straight-through estimator of Bengio et al. 2013, arXiv
1308.3432).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """A codec's size: K channels of `bits` bits, `stride` times narrower in space."""

    channels: int
    bits: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"codec.channels: {self.channels} is not at least 1")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"codec.bits: {self.bits} is not within 1 to 8")
        if self.stride < 1:
            raise ValueError(f"codec.stride: {self.stride} is not at least 1")


class WireCodec(nn.Module):
    """Encoder, uniform quantiser and decoder around one boundary of (N, C, H, W) features.

    H and W must be multiples of the stride.
    """

    def __init__(self, features: int, spec: CodecSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = nn.Sequential(
            nn.Conv2d(features, spec.channels, spec.stride, spec.stride, bias=False),
            nn.BatchNorm2d(spec.channels),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(spec.channels, features * spec.stride**2, 3, padding=1, bias=False),
            nn.PixelShuffle(spec.stride) if spec.stride > 1 else nn.Identity(),
            nn.BatchNorm2d(features),
            nn.ReLU(inplace=True),
        )

    @property
    def top(self) -> int:
        """The highest code, 2^bits - 1."""
        return int(2**self.spec.bits) - 1

    def levels(self, features: Tensor) -> Tensor:
        """The real numbers that rounding turns into codes, in [0, top].

        (N, C, H, W) -> (N, K, H/s, W/s).
        """
        # Three standard deviations of the normalised encoder's output fill the range.
        unit = (self.encoder(features) / 6.0 + 0.5).clamp(0.0, 1.0)
        levels: Tensor = unit.float() * self.top
        return levels

    def decode(self, codes: Tensor) -> Tensor:
        """Features from codes of any real dtype: (N, K, H/s, W/s) -> (N, C, H, W)."""
        features: Tensor = self.decoder(codes.float() * (2.0 / self.top) - 1.0)
        return features

    def through(self, levels: Tensor) -> Tensor:
        """Features as the far side of the wire would see them, differentiable in `levels`."""
        return self.decode(levels + (levels.round() - levels).detach())

    @staticmethod
    def quantise(levels: Tensor) -> Tensor:
        """The uint8 codes that travel: halves round to even, as ONNX's Round does."""
        return levels.round().to(torch.uint8)
