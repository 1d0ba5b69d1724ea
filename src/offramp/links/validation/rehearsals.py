"""Timelines that show one quantity each, made of the one that is validated.

What disturbs the quantity at hand is taken out: over TCP a lost packet costs a round trip and more, and a
rate near 0 is a delay too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from offramp.links.quantiles import Floats
from offramp.links.timeline import Direction, Loss, State, Timeline

_STEP_S = 0.01
_LEAST_MBIT = 10.0  # for outages and loss: probes and calls shall not wait for the rate
_LEAST_RATE_MBIT = 1.0


class Outage(NamedTuple):
    """From and for how long, in seconds from the first row."""

    start_s: float
    length_s: float


def delays_only(timeline: Timeline) -> Timeline:
    """The rows' delays, always open, at the greatest rate, without loss."""

    def of(way: Direction) -> Direction:
        rate = np.full_like(way.rate_mbit, max(way.rate_mbit.max(), _LEAST_MBIT))
        return Direction(way.delay_ms, rate, np.zeros_like(way.state), way.queue_bytes)

    return replace(timeline, up=of(timeline.up), down=of(timeline.down), idle=None)


def rate_only(timeline: Timeline, percent: float) -> Timeline:
    """One row: each way's rate at that percentile of its rows, the median delay, a queue of two such products."""

    def of(way: Direction) -> Direction:
        rate = max(_LEAST_RATE_MBIT, float(np.percentile(way.rate_mbit, percent)))
        return _steady(way, round(rate, 3), [State.OPEN])

    return replace(timeline, up=of(timeline.up), down=of(timeline.down), step_s=0.1, idle=None)


def losses_only(timeline: Timeline) -> Timeline:
    """One row: nothing but loss."""

    def of(way: Direction) -> Direction:
        return replace(_steady(way, _middling(way), [State.OPEN]), loss=way.loss)

    return replace(timeline, up=of(timeline.up), down=of(timeline.down), step_s=0.1, idle=None)


def outages_only(
    timeline: Timeline, state: State, lengths_s: Sequence[float], apart_s: float
) -> tuple[Timeline, list[Outage]]:
    """Open but for outages of those lengths in both directions, with `apart_s` before and after each."""
    states, outages = [State.OPEN] * round(apart_s / _STEP_S), []
    for length_s in lengths_s:
        outages.append(Outage(len(states) * _STEP_S, length_s))
        states += [state] * round(length_s / _STEP_S)
        states += [State.OPEN] * round(apart_s / _STEP_S)

    def of(way: Direction) -> Direction:
        return _steady(way, _middling(way), states)

    shaped = replace(
        timeline, up=of(timeline.up), down=of(timeline.down), step_s=_STEP_S, idle=None
    )
    return shaped, outages


def _middling(way: Direction) -> float:
    return max(_LEAST_MBIT, float(np.median(way.rate_mbit)))


def _steady(way: Direction, rate_mbit: float, states: Sequence[State]) -> Direction:
    delay_ms = float(np.median(way.delay_ms))
    # Both ways' delay and more: a queue below the product of bandwidth and round trip starves TCP.
    product_bytes = rate_mbit * 125 * max(20.0, 4 * delay_ms)
    return Direction(
        np.full(len(states), delay_ms),
        np.full(len(states), rate_mbit),
        np.array(states, np.uint8),
        max(way.queue_bytes, int(2 * product_bytes)),
    )


def rows_round_trip_s(
    timeline: Timeline, origin_s: float, sent_s: Floats, back_s: Floats
) -> Floats:
    """(N,) one-way delays of the rows in force when each probe and its answer set out, summed. Same clock."""
    step, rows = timeline.step_s, len(timeline.up.state)
    up, down = (((times - origin_s) / step).astype(int) % rows for times in (sent_s, back_s))
    return np.asarray((timeline.up.delay_ms[up] + timeline.down.delay_ms[down]) / 1e3)


def loss_of(timeline: Timeline) -> dict[str, Loss | None]:
    """Each way's loss."""
    return {"up": timeline.up.loss, "down": timeline.down.loss}
