"""What a cheap exit at every candidate would say: linear probes on the features of a frozen network.

Source: Alain and Bengio 2016, arXiv 1610.01644 (linear classifier probes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offramp.exits.placement import Probed
from offramp.models.features import logits_of
from offramp.models.heads import ExitHead, HeadSpec
from offramp.models.network import Preparation
from offramp.models.placement import Candidate, Candidates

_BATCH = 250  # samples a pass, for memory only
_STEPS, _RATE, _DECAY = 150, 0.05, 1e-3  # of Adam on all samples at once; enough to level off


class _Pooled:
    """A forward hook that keeps a candidate's features as the head `pool` averages them."""

    def __init__(self, candidate: Candidate) -> None:
        self._features = candidate.attachment.features
        self._chosen = candidate.attachment.chosen
        head = ExitHead(self._features.shapes[self._chosen], 1, HeadSpec(kind="pool"))
        self._pool = nn.Sequential(*list(head)[:-1])
        self._kept: list[Tensor] = []

    def __call__(self, _module: nn.Module, _inputs: object, output: object) -> None:
        self._kept.append(self._pool(self._features.of(output)[self._chosen]))

    def vectors(self) -> Tensor:
        """Of all samples so far: (N, C)."""
        return torch.cat(self._kept)


@torch.no_grad()
def _pooled_features(
    backbone: nn.Module,
    candidates: Sequence[Candidate],
    inputs: Tensor,
    prepare: Preparation | None,
) -> tuple[list[Tensor], Tensor]:
    """The pooled features of every candidate, (N, C) each, and the logits (N, classes)."""
    hooks = [_Pooled(candidate) for candidate in candidates]
    handles = [
        backbone.get_submodule(candidate.at).register_forward_hook(hook)
        for candidate, hook in zip(candidates, hooks, strict=True)
    ]
    logits = []
    try:
        for part in torch.split(inputs, _BATCH):
            found = logits_of(backbone(part if prepare is None else prepare(part)))
            assert isinstance(found, Tensor)  # noqa: S101 (narrows the type; `dry_run` saw one)
            logits.append(found)
    finally:
        for handle in handles:
            handle.remove()
    return [hook.vectors() for hook in hooks], torch.cat(logits)


def _trained(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """A linear layer fitted to (N, C) features by Adam, all samples in every step."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=_RATE, weight_decay=_DECAY)
    with torch.enable_grad():
        for _ in range(_STEPS):
            optimiser.zero_grad()
            F.cross_entropy(layer(features), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return layer


def probe(
    backbone: nn.Module,
    candidates: Candidates,
    inputs: Tensor,
    labels: Tensor,
    *,
    prepare: Preparation | None,
    fit_share: float = 0.6,
) -> Probed:
    """A probe at every candidate, fitted on the first share of the samples and asked on the rest.

    inputs: (N, ...) as the network takes them, in no order; labels: (N,) int64. The backbone is in
    evaluation mode.
    """
    fitted = int(len(labels) * fit_share)
    features, logits = _pooled_features(backbone, candidates.places, inputs, prepare)
    asked = labels[fitted:]
    confidence, correct = [], []
    for vectors in features:
        mean, std = vectors[:fitted].mean(0), vectors[:fitted].std(0)
        scaled = (vectors - mean) / (std + 1e-6)
        layer = _trained(scaled[:fitted], labels[:fitted], logits.shape[1])
        with torch.no_grad():
            certain, said = layer(scaled[fitted:]).softmax(1).max(1)
        confidence.append(certain.double().numpy())
        correct.append((said == asked).numpy())
    return Probed(
        confidence=np.stack(confidence),
        correct=np.stack(correct),
        last_correct=(logits[fitted:].argmax(1) == asked).numpy(),
        cost=np.array([place.flops for place in candidates.places], np.float64),
        own_cost=np.array([place.own_flops for place in candidates.places], np.float64),
        whole_cost=float(candidates.flops),
    )
