"""What the exits reached so far say together.

    p_0 ... p_k calibrated, weights w_0 ... w_k  ->  the combined answer of exit k

"mean" is sum(w_j p_j) / sum(w_j), "geometric" the normalised product of p_j ** (w_j / sum(w_j)), "none" p_k alone. The
product is from Zero Time Waste (Wolczyk et al. 2021, arXiv 2106.05409), and no more than that: there every exit k
learns weights of its own, of any sum, for all exits up to it and a bias for each class, and cascade connections hand
each head the logits of the one before; here an exit has one weight for all that follow, and heads do not see each
other. So all that travels is one running mean,

    m_k = (1 - s_k) m_(k-1) + s_k x_k,   s_k = w_k / (w_0 + ... + w_k),   x_k = p_k or log p_k,

so that m_k is all that travels, as float16. The next exit takes it up as rounded whether or not a
hop lies between, so an answer does not depend on the partition. Of the Fashion-MNIST bundle's
10,000 test images it changes no label at any exit, with either combination. Letters: N samples, C
classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from offramp.exits.confidence import log_softmax, softmax
from offramp.exits.rules.rule import Fields, Floats, Memory

Combine = Literal["none", "mean", "geometric"]
_LEAST = float(np.finfo(np.float16).min)
_SUM_TOLERANCE = 0.01  # C values rounded to float16 sum to 1 within 0.001


class Combination(ABC):
    """One way to combine. A subclass is stateless: memory is handed in and out."""

    @abstractmethod
    def answer(
        self, logits: ArrayLike, temperature: float, share: float, before: Memory | None
    ) -> tuple[Floats, Memory]:
        """The combined probabilities (N, C) of an exit, and the memory after it.

        logits: (N, C), that exit's own; share: s_k; before: the memory after the exit before, None at the first.
        """

    def fields(self, classes: int) -> Fields:
        """What a sample carries from exit to exit."""
        return (("combined", "<f2", (classes,)),)

    def flaw(self, memory: Memory) -> str:
        """What no earlier exits can have left, in words; empty where all is well."""
        return "" if np.isfinite(memory["combined"]).all() else "it holds NaN or infinite values"


class Alone(Combination):
    """Every exit speaks for itself; nothing travels."""

    def answer(
        self, logits: ArrayLike, temperature: float, share: float, before: Memory | None
    ) -> tuple[Floats, Memory]:
        """The exit's own calibrated probabilities."""
        return softmax(logits, temperature), {}

    def fields(self, classes: int) -> Fields:
        """None."""
        return ()

    def flaw(self, memory: Memory) -> str:
        """None."""
        return ""


class Mean(Combination):
    """The weighted mean of probabilities; they travel themselves."""

    def answer(
        self, logits: ArrayLike, temperature: float, share: float, before: Memory | None
    ) -> tuple[Floats, Memory]:
        """Rows sum to 1: what rounding took or gave in `before` is made up for."""
        mixed = softmax(logits, temperature)
        if before is not None:
            earlier = before["combined"].astype(np.float64)
            earlier /= earlier.sum(axis=1, keepdims=True)
            mixed = (1 - share) * earlier + share * mixed
        return mixed, {"combined": mixed}

    def flaw(self, memory: Memory) -> str:
        """Also what are no probabilities."""
        combined = memory["combined"].astype(np.float64)
        off = np.abs(combined.sum(axis=-1) - 1) > _SUM_TOLERANCE
        if super().flaw(memory) == "" and ((combined < 0).any() or off.any()):
            return "it holds no probabilities that sum to 1"
        return super().flaw(memory)


class Geometric(Combination):
    """The normalised weighted product; logarithms travel, less the largest, for float16 is finest near 0."""

    def answer(
        self, logits: ArrayLike, temperature: float, share: float, before: Memory | None
    ) -> tuple[Floats, Memory]:
        """Rows sum to 1; a class that float16 cannot hold stays at its least, exp(-65504)."""
        mixed = log_softmax(logits, temperature)
        if before is not None:
            mixed = (1 - share) * before["combined"].astype(np.float64) + share * mixed
        below = mixed - mixed.max(axis=1, keepdims=True)
        return softmax(below), {"combined": np.maximum(below, _LEAST)}

    def flaw(self, memory: Memory) -> str:
        """Also logarithms that were not taken from the largest."""
        if super().flaw(memory) == "" and (memory["combined"].max(axis=-1) != 0).any():
            return "its largest logarithm is not 0"
        return super().flaw(memory)


COMBINATIONS: Final[Mapping[str, Combination]] = {
    "none": Alone(),
    "mean": Mean(),
    "geometric": Geometric(),
}
