"""What wire codecs add to the loss of a regime: how much they lose, and how many bytes they take.

features --codec--> levels --> decoded features
    |                  +--> bytes that entropy coding would leave, above the codec's target
    +-- distance ----------------> of the decoded ones
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from offramp.models import ExitNetwork, ExitOutputs

_RAREST = 1 / 4096  # a share of codes; no table of `offramp.wire.Coding` has a smaller one


def reconstruction_loss(decoded: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """How far the far side is from the uncompressed boundary: MSE over variance, mean of tensors.

    The features are the teacher and get no gradient; 1 is what their mean alone would give.
    Source: Matsubara et al. 2022 (SC2, arXiv 2203.08875), distillation of bottlenecks.
    """
    shares = [
        F.mse_loss(ours.float(), theirs.detach().float())
        / theirs.detach().float().var().clamp(min=1e-6)
        for ours, theirs in zip(decoded, features, strict=True)
    ]
    return torch.stack(shares).mean()


def coded_bytes(levels: Tensor, top: int) -> Tensor:
    """Mean bytes of a sample's codes under tables of how often each occurs in this batch.

    levels: (N, K, ...) in [0, top]. The bytes are those of the rounded levels. Between two codes the
    price is taken as linear, so that its gradient leads towards the likelier one; the tables
    themselves have none.
    """
    rows = levels.float().transpose(0, 1).flatten(1)  # (K, M)
    codes = rows.detach().round().long()
    found = rows.new_zeros(len(rows), top + 1).scatter_add_(
        1, codes, torch.ones_like(rows).detach()
    )
    price = -(found / rows.shape[1]).clamp(min=_RAREST).log2()  # (K, top + 1) bits
    below = rows.detach().floor().clamp(max=top - 1)
    share, lower = rows - below, below.long()
    between = (1 - share) * price.gather(1, lower) + share * price.gather(1, lower + 1)
    bits = price.gather(1, codes) + between - between.detach()
    return bits.sum() / (8 * len(levels))


def codec_loss(network: ExitNetwork, outputs: ExitOutputs, distillation: float) -> Tensor:
    """The sum over the codecs of distillation times distance, and of the share of bytes over target."""
    total = outputs.logits[-1].new_zeros(())
    for k, (features, levels, decoded) in enumerate(
        zip(outputs.features, outputs.levels, outputs.decoded, strict=True), start=1
    ):
        codec = network.codec(k)
        if codec is None or levels is None or decoded is None:
            continue
        if distillation > 0:
            total = total + distillation * reconstruction_loss(decoded, features)
        if codec.spec.target_bytes > 0:
            over = coded_bytes(levels, codec.top) / codec.spec.target_bytes - 1
            total = total + over.clamp(min=0)
    return total
