"""Parts of a timeline, for runs that are much shorter than it is.

timeline  |aaa.........|bbb.........|ccc.........|     pieces at equal distances, the first at the first row
excerpt   |aaabbbccc|                                  what a run of that length meets

Neighbouring rows are alike: a run of some seconds in one go would see one mood of the link. Pieces see several. What an
event lasts beyond the end of its piece is cut off.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.errors import InvalidInput
from offramp.links.timeline import Direction, State, Timeline


def excerpt(timeline: Timeline, *, seconds: float, piece_s: float) -> Timeline:
    """The rows of pieces of piece_s that together last at least `seconds`.

    Raises InvalidInput naming the argument: below a row, or more than the timeline has.
    """
    piece_rows = round(piece_s / timeline.step_s)
    if piece_rows < 1:
        raise InvalidInput("piece_s", f"{piece_s:g} s is less than a row, {timeline.step_s:g} s")
    if not 0 < seconds <= timeline.duration_s:
        raise InvalidInput("seconds", f"{seconds:g} is not in 0 to {timeline.duration_s:g}")
    rows, pieces = len(timeline.up.state), int(np.ceil(seconds / (piece_rows * timeline.step_s)))
    starts = np.arange(pieces) * rows // pieces
    chosen = (starts[:, None] + np.arange(piece_rows)).ravel() % rows  # (pieces * piece_rows,)

    def of(way: Direction) -> Direction:
        columns = (way.delay_ms[chosen], way.rate_mbit[chosen], way.state[chosen])
        return Direction(*columns, way.queue_bytes, way.loss)

    return replace(timeline, up=of(timeline.up), down=of(timeline.down))


def calm(timeline: Timeline) -> Timeline:
    """One row: the median delay, the median rate of the open rows, and nothing that disturbs."""

    def of(way: Direction) -> Direction:
        is_open = way.state == State.OPEN
        rate = float(np.median(way.rate_mbit[is_open])) if is_open.any() else 1.0
        row = (np.array([np.median(way.delay_ms)]), np.array([rate]), np.array([0], np.uint8))
        return Direction(*row, way.queue_bytes)

    return replace(timeline, up=of(timeline.up), down=of(timeline.down), idle=None)


def passing_share(timeline: Timeline) -> float:
    """The share of rows in which both directions are open."""
    return float(((timeline.up.state == State.OPEN) & (timeline.down.state == State.OPEN)).mean())
