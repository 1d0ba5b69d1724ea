"""When a direction can have carried so many bytes: the rows of a timeline as one rising curve.

    bytes |          ____/      `served(t)`: what the rows let through from the origin to t
          |     ____/   ^       `when(n)`: the earliest t with served(t) >= n
          |    /  hold          a row that is not open is flat
          +---------------- t   the curve goes on from lap to lap of the timeline

A packet that starts at position v of the curve has left the bottleneck at when(v + its size), however many
rows it spans. So a queue needs one number, the position of its end, and no step of simulated time.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np

from offramp.links.timeline import Direction, State

_BYTES_PER_MBIT = 125_000


class Curve(Protocol):
    """What one direction lets through; times are the engine's clock, in seconds."""

    def served(self, at_s: float) -> float:
        """Bytes that the link can have carried by then, since the curve's origin."""

    def when(self, position: float) -> float:
        """The earliest time at which `served` is that much; inf: never."""

    def delay_s(self, at_s: float) -> float:
        """The one-way delay of what leaves the bottleneck then."""

    def state(self, at_s: float) -> State:
        """What happens to a packet then."""

    def opens_s(self, at_s: float) -> float:
        """The earliest time from then on at which the link does not hold; inf: never."""


class TimelineCurve:
    """The curve of a timeline's direction that starts its first row at `origin_s`.

    limit_mbit: rates above it are clipped to it. lossless: a dropping row holds, for an engine that cannot
    lose. From 2 rows of 0.5 s at 8 and 16 Mbit/s: served(1) is 1.5e6, when(1e6) is 0.75.
    """

    def __init__(
        self,
        direction: Direction,
        step_s: float,
        origin_s: float = 0.0,
        *,
        limit_mbit: float = inf,
        lossless: bool = False,
    ) -> None:
        rate = np.minimum(direction.rate_mbit, limit_mbit) * _BYTES_PER_MBIT
        state = direction.state.copy()
        if lossless:
            state[state == State.DROP] = State.HOLD
        rate = np.where(state == State.OPEN, rate, 0.0)
        # Lists: a scalar look-up in them is several times faster than in an array.
        self._ends: list[float] = np.cumsum(rate * step_s).tolist()
        self._rate: list[float] = rate.tolist()
        self._delay_s: list[float] = (direction.delay_ms / 1e3).tolist()
        self._state = [State(value) for value in state.tolist()]
        self._next_open = _rows_to_no_hold(self._state)
        self._step_s, self._origin_s = step_s, origin_s
        self._lap_s: float = len(rate) * step_s
        self._lap_bytes: float = self._ends[-1]
        self._last = 0, 0, origin_s  # the lap and row last looked up, and when that row began

    def _row(self, at_s: float) -> tuple[int, int, float]:
        """Lap, row, and seconds into the row."""
        # Packets come thousands to a row, and this is the engines' innermost loop.
        lap, row, from_s = self._last
        into_s = at_s - from_s
        if not 0 <= into_s < self._step_s:
            turns, within = divmod(at_s - self._origin_s, self._lap_s)
            # The small addend: 0.3 / 0.1 is 2.9999999999999996.
            row = min(int(within / self._step_s + 1e-9), len(self._rate) - 1)
            lap, into_s = int(turns), within - row * self._step_s
            self._last = lap, row, at_s - into_s
        return lap, row, into_s

    def served(self, at_s: float) -> float:
        """See Curve."""
        lap, row, into_s = self._row(at_s)
        before = self._ends[row - 1] if row else 0.0
        return lap * self._lap_bytes + before + into_s * self._rate[row]

    def when(self, position: float) -> float:
        """See Curve."""
        if self._lap_bytes == 0:
            return inf
        lap, rest = divmod(position, self._lap_bytes)
        row = bisect_left(self._ends, rest)
        before = self._ends[row - 1] if row else 0.0
        into_s = (rest - before) / self._rate[row] if rest > before else 0.0
        return self._origin_s + lap * self._lap_s + row * self._step_s + into_s

    def delay_s(self, at_s: float) -> float:
        """See Curve."""
        return self._delay_s[self._row(at_s)[1]]

    def state(self, at_s: float) -> State:
        """See Curve."""
        return self._state[self._row(at_s)[1]]

    def rate_bytes_s(self, at_s: float) -> float:
        """Bytes a second in the row in force; 0 where it is not open."""
        return self._rate[self._row(at_s)[1]]

    def opens_s(self, at_s: float) -> float:
        """See Curve."""
        lap, row, _ = self._row(at_s)
        if self._state[row] != State.HOLD:
            return at_s
        ahead = self._next_open[row]
        return self._origin_s + lap * self._lap_s + ahead * self._step_s if ahead >= 0 else inf


@dataclass(frozen=True, slots=True)
class ShutCurve:
    """Another curve that lets nothing through before `until_s` (inf: never), and then goes on where it would be.

    state: HOLD or DROP until then.
    """

    curve: Curve
    until_s: float
    shut: State = State.HOLD

    def served(self, at_s: float) -> float:
        """See Curve."""
        if at_s <= self.until_s:
            return 0.0
        return self.curve.served(at_s) - self.curve.served(self.until_s)

    def when(self, position: float) -> float:
        """See Curve."""
        if self.until_s == inf:
            return inf
        return max(self.until_s, self.curve.when(position + self.curve.served(self.until_s)))

    def delay_s(self, at_s: float) -> float:
        """See Curve."""
        return self.curve.delay_s(at_s)

    def state(self, at_s: float) -> State:
        """See Curve."""
        return self.shut if at_s < self.until_s else self.curve.state(at_s)

    def opens_s(self, at_s: float) -> float:
        """See Curve."""
        if self.shut != State.HOLD or at_s >= self.until_s:
            return self.curve.opens_s(at_s)
        return inf if self.until_s == inf else self.curve.opens_s(self.until_s)


def _rows_to_no_hold(states: list[State]) -> list[int]:
    """Per row the next that does not hold, counted on into the following lap; -1 where there is none."""
    rows = len(states)
    following, upcoming = [-1] * rows, -1
    for row in range(2 * rows - 1, -1, -1):
        if states[row % rows] != State.HOLD:
            upcoming = row
        if row < rows:
            following[row] = upcoming
    return following
