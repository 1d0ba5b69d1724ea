"""Bytes at equal accuracy: a curve of (bytes, accuracy) points, read the other way round."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """What a way of sending costs, and how often the answer is right."""

    size_bytes: float
    accuracy: float


def frontier(points: Iterable[Point]) -> list[Point]:
    """Those points that no other beats: more bytes are always more accuracy."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.size_bytes, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def bytes_at(points: Iterable[Point], accuracy: float) -> float | None:
    """The fewest bytes that reach that accuracy; None where no point does.

    Between two points of the frontier the logarithm of the bytes is linear in the accuracy. Below
    the first the curve ends, so it is the first's bytes, an upper bound.

    >>> round(bytes_at([Point(100, 0.5), Point(400, 0.9)], 0.7))
    200
    """
    curve = frontier(points)
    if not curve or accuracy > curve[-1].accuracy:
        return None
    for low, high in pairwise(curve):
        if low.accuracy < accuracy <= high.accuracy:
            share = (accuracy - low.accuracy) / (high.accuracy - low.accuracy)
            logs = math.log(low.size_bytes), math.log(high.size_bytes)
            return math.exp(logs[0] + share * (logs[1] - logs[0]))
    return curve[0].size_bytes
