"""Convex weights for a combination of exits, learned on samples that training did not see.

    exit 0 --(share s_1)--> combined 1 --(share s_2)--> combined 2 ... ; s_k = w_k / (w_0 + ... + w_k)

Each share is chosen for the exit where it comes in, with what the exits before it have settled: as
every exit answers, the last one is not all that counts. The negative log-likelihood is convex in a
share, of probabilities and of logarithms alike, so a one-dimensional search finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.exits.combination import COMBINATIONS, Combination, Combine
from offramp.exits.rules.rule import Memory

_MOST = 0.999  # of an exit's own share, so that no weight before it is lost to rounding
_GOLDEN = (5**0.5 - 1) / 2


def fit_weights(
    logits: Sequence[NDArray[np.floating]],
    labels: NDArray[np.int64],
    combine: Combine,
    *,
    temperatures: Sequence[float] = (),
) -> tuple[float, ...]:
    """The weight of each exit, from 0 and summing to 1, under which the labels are likely at every exit.

    logits: E times (N, C); labels: (N,); temperatures: of each exit, 1 where none are given. Raises
    ValueError where nothing is combined, lengths differ or there are no samples.
    """
    if combine == "none":
        raise ValueError("combine: none needs no weights")
    if any(len(at_exit) != len(labels) for at_exit in logits) or len(labels) == 0:
        raise ValueError(f"labels: {len(labels)} for {[len(at_exit) for at_exit in logits]} logits")
    combination = COMBINATIONS[combine]
    weights: list[float] = []
    before: Memory | None = None
    for at_exit, temperature in zip(logits, temperatures or [1.0] * len(logits), strict=True):
        share = _best_share(combination, at_exit, labels, temperature, before)
        weights.append(sum(weights) * share / (1 - share) if weights else 1.0)
        memory = combination.answer(at_exit, temperature, share, before)[1]
        before = {name: values.astype(np.float16) for name, values in memory.items()}
    return tuple(weight / sum(weights) for weight in weights)


def _best_share(
    combination: Combination,
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    temperature: float,
    before: Memory | None,
) -> float:
    rows = np.arange(len(labels))

    def loss(share: float) -> float:
        probabilities, _ = combination.answer(logits, temperature, share, before)
        return float(-np.log(np.maximum(probabilities[rows, labels], 1e-300)).mean())

    return 1.0 if before is None else _least(loss, 0.0, _MOST)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a convex function is least between two points, by golden-section search."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(40):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = function(b)
    return (low + high) / 2
