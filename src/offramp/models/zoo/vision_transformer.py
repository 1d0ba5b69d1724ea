"""A small vision transformer.

    image -> patches -> [class token, patches] + positions -> blocks -> norm -> class token -> linear

N samples, T tokens (the class token first), D channels. Sources: Dosovitskiy et al. 2021, arXiv
2010.11929, section 3.1; sizes for small images as in Touvron et al. 2021, arXiv 2012.12877, table 1,
scaled down.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from offramp.models.attach import CannotAttach
from offramp.models.zoo.settings import BackboneSettings, Size, image_of
from offramp.wire import TensorSpec


class _Block(nn.Module):
    """Attention, then two layers; each normalised before and added to what it was given."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def _attended(self, tokens: Tensor) -> Tensor:
        count, width = tokens.shape[1:]
        qkv = self.to_qkv(tokens).reshape(-1, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 times (N, heads, T, D / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(-1, count, width))
        return projected

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attended(self.norm1(tokens))
        result: Tensor = tokens + self.layers(self.norm2(tokens))
        return result


class VisionTransformer(nn.Module):
    """(N, C, H, W) -> (N, classes). Submodules to attach exits to: `blocks.0`, `blocks.1`, ..."""

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        classes: int,
        patch: int = 4,
        dimension: int = 96,
        depth: int = 6,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"patch: {patch} does not divide {height} x {width}")
        if dimension % heads:
            raise ValueError(f"heads: {heads} do not divide the dimension {dimension}")
        self.patches = nn.Conv2d(channels, dimension, patch, patch)
        count = (height // patch) * (width // patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dimension))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + 1, dimension))
        self.blocks = nn.Sequential(
            *(_Block(dimension, heads, 4 * dimension) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dimension)
        self.classifier = nn.Linear(dimension, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the last exit."""
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (N, T - 1, D)
        first = self.class_token.expand(images.shape[0], -1, -1)
        tokens = self.blocks(torch.cat([first, patches], 1) + self.positions)
        logits: Tensor = self.classifier(self.norm(tokens[:, 0]))
        return logits


class VisionTransformerSettings(BackboneSettings):
    """The arguments of `VisionTransformer`."""

    name: Literal["vision-transformer"]
    patch: Size = 4
    dimension: Size = 96
    depth: Size = 6
    heads: Size = 3

    @model_validator(mode="after")
    def _divides(self) -> VisionTransformerSettings:
        if self.dimension % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide the dimension {self.dimension}")
        return self

    def build(self, takes: TensorSpec, classes: int) -> VisionTransformer:
        """The network for images; raises CannotAttach where patches do not divide them."""
        channels, height, width = image_of(takes)
        if height % self.patch or width % self.patch:
            raise CannotAttach("backbone.patch", f"{self.patch} does not divide {height} x {width}")
        return VisionTransformer(
            channels=channels,
            height=height,
            width=width,
            classes=classes,
            **self.model_dump(exclude={"name"}),
        )
