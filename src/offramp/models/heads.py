"""Exit heads: small classifiers from a point of the backbone to the classes.

    (N, C, H, W)  pool  max-mean  conv
    (N, T, C)     pool  max-mean  cls  attention
    (N, C)        pool

N samples, C channels, H x W places, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Kind = Literal["pool", "max-mean", "conv", "cls", "attention"]
_KINDS: dict[int, tuple[Kind, ...]] = {  # by the dimensions of one sample's features
    3: ("pool", "max-mean", "conv"),
    2: ("pool", "max-mean", "cls", "attention"),
    1: ("pool",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """The shape of a head; a linear layer is the last of each.

    `pool` takes the mean over places or tokens; `max-mean` their maxima beside it (the mixed
    pooling of Kaya et al. 2019, arXiv 1810.07052, both kept); `conv` a strided convolution to
    `width` channels before the mean; `cls` the first token; `attention` a mean of tokens with
    learned weights. Tokens are normalised first, for those between the layers of a transformer are
    not.
    """

    kind: Kind = "conv"
    width: int = 128

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"head.kind: {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.width < 1:
            raise ValueError(f"head.width: {self.width} is not at least 1")


class _TokenMean(nn.Module):
    """(N, T, C) -> (N, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class _MaxMean(nn.Module):
    """Maxima and means over all of `dims`: (N, C, H, W) or (N, T, C) -> (N, 2 C)."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features.amax(self.dims), features.mean(self.dims)], 1)


class _FirstToken(nn.Module):
    """(N, T, C) -> (N, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class _AttentionMean(nn.Module):
    """The mean of tokens weighted by their likeness to one learned query: (N, T, C) -> (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        weights: Tensor = self.query(tokens).softmax(1)  # (N, T, 1)
        return (weights.transpose(1, 2) @ tokens).squeeze(1)


def _of_maps(channels: int, spec: HeadSpec) -> tuple[list[nn.Module], int]:
    if spec.kind == "max-mean":
        return [_MaxMean((2, 3))], 2 * channels
    mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if spec.kind == "pool":
        return mean, channels
    convolution = [
        nn.Conv2d(channels, spec.width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(spec.width),
        nn.ReLU(inplace=True),
    ]
    return convolution + mean, spec.width


def _of_tokens(channels: int, spec: HeadSpec) -> tuple[list[nn.Module], int]:
    norm = nn.LayerNorm(channels)
    if spec.kind == "cls":
        return [_FirstToken(), norm], channels
    if spec.kind == "max-mean":
        return [norm, _MaxMean((1,))], 2 * channels
    return [norm, _AttentionMean(channels) if spec.kind == "attention" else _TokenMean()], channels


class ExitHead(nn.Sequential):
    """Logits from features: (N, C, H, W), tokens (N, T, C) or vectors (N, C) -> (N, classes).

    shape: of one sample's features, so its length says which. Raises ValueError where the spec or
    the head cannot take it.
    """

    def __init__(self, shape: Sequence[int], classes: int, spec: HeadSpec) -> None:
        kinds = _KINDS.get(len(shape), ())
        if not kinds:
            raise ValueError(f"head: no head takes features of {tuple(shape)} a sample")
        if spec.kind not in kinds:
            raise ValueError(
                f"head.kind: {spec.kind!r} does not take features of {tuple(shape)} a sample, but "
                f"{', '.join(kinds)} {'do' if len(kinds) > 1 else 'does'}"
            )
        if len(shape) == 1:
            layers, width = list[nn.Module](), shape[0]
        else:
            of_kind, channels = (_of_maps, shape[0]) if len(shape) == 3 else (_of_tokens, shape[1])
            layers, width = of_kind(channels, spec)
        super().__init__(*layers, nn.Linear(width, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, not probabilities: temperature and softmax belong to the exit policy."""
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits
