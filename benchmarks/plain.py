"""The network without exits that a cascade is held against: the same shape, narrower, of at least so many FLOPs."""

from __future__ import annotations

import tomllib

import torch

from benchmarks.trained import CONFIGS
from offramp.models import SmallResNet
from offramp.models.flops import counted_flops

_STEP = 64  # scales are multiples of 1/64


def _flops(stem: int, stem_stride: int, widths: list[int], strides: list[int]) -> int:
    network = SmallResNet(
        channels=3, classes=10, stem=stem, stem_stride=stem_stride, widths=widths, strides=strides
    )
    with counted_flops() as counter:
        network.eval()(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops())


def plain_recipe(flops: float, config: str = "cifar10_exits") -> tuple[str, int]:
    """The backbone of a config at the least scale of its widths that has so many FLOPs, as TOML, and its FLOPs.

    Raises ValueError where the whole of it has fewer.
    """
    recipe = tomllib.loads((CONFIGS / f"{config}.toml").read_text(encoding="utf-8"))
    backbone = recipe["backbone"]
    strides, stem_stride = backbone["strides"], backbone.get("stem_stride", 1)
    for step in range(_STEP // 8, _STEP + 1):
        stem, *widths = (
            round(width * step / _STEP) for width in (backbone["stem"], *backbone["widths"])
        )
        found = _flops(stem, stem_stride, widths, strides)
        if found >= flops:
            return (
                f"stem = {stem}, stem_stride = {stem_stride}, widths = {widths}, strides = {strides}",
                found,
            )
    raise ValueError(f"flops: {flops:.0f}, and {config} has {found}")
