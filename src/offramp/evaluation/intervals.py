"""Estimates with the interval that holds the truth in 95 of 100 samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def share(count: int, of: int) -> Estimate:
    """A share of samples, with Wilson's score interval; it stays within [0, 1] and is never empty.

    Source: Wilson 1927, JASA 22; Brown, Cai and DasGupta 2001, Statistical Science 16(2), section 3.
    Raises ValueError where `count` is no part of `of`.

    >>> found = share(9, 10)
    >>> round(found.low, 3), round(found.high, 3)
    (0.596, 0.982)
    """
    if not 0 <= count <= of or of == 0:
        raise ValueError(f"count: {count} is no part of {of}")
    found, square = count / of, _Z**2 / of
    middle = (found + square / 2) / (1 + square)
    half = math.sqrt(square * (found * (1 - found) + square / 4)) / (1 + square)
    return Estimate(found, max(0.0, middle - half), min(1.0, middle + half))


def mean(values: ArrayLike) -> Estimate:
    """The mean of independent samples, with the normal interval: mean +- 1.96 s / sqrt(N).

    Raises ValueError where there are none.
    """
    found = np.asarray(values, np.float64)
    if len(found) == 0:
        raise ValueError("values: there are none")
    middle = float(found.mean())
    half = _Z * float(found.std(ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return Estimate(middle, middle - half, middle + half)
