"""A profile, a seed and a duration become a timeline; the same three always become the same one.

round trip ──> path ──> up: share, down: the rest     (one latent: both ways rise and fall together)
rate up ─────> path                                   (a latent each, independent of the delay and of each
rate down ───> path                                    other: no source measured them at once)
events ──────> when, how long ──> state of both ways

A trace of the user's takes the place of the path of its kind; the rest stays the profile's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput
from offramp.links.correlation import path
from offramp.links.profile import Process, Profile, Way
from offramp.links.quantiles import Floats
from offramp.links.timeline import Direction, State, Timeline

_DIGITS = 4  # of a delay in ms and a rate in Mbit/s: below what any engine can do, and the file's ten hold them
_STEP_S = (0.02, 0.1)
_MOST_ROWS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traces:
    """What was measured by the user, a value a row; None: as the profile says. A short one starts again."""

    rate_up_mbit: Floats | None = None
    rate_down_mbit: Floats | None = None
    round_trip_ms: Floats | None = None
    name: str = ""

    @property
    def rows(self) -> int:
        """Of the longest."""
        traces = (self.rate_up_mbit, self.rate_down_mbit, self.round_trip_ms)
        return max((len(trace) for trace in traces if trace is not None), default=0)


def compile_profile(
    profile: Profile,
    *,
    seed: int,
    duration_s: float,
    step_s: float = 0.05,
    traces: Traces | None = None,
) -> Timeline:
    """The timeline of a profile.

    seed: 0 or above. duration_s: rounded to whole rows. step_s: 0.02 to 0.1.
    An event lasts whole rows, at least one. Raises InvalidInput naming the argument that is out of range.
    """
    rows = _rows(seed, duration_s, step_s)
    streams = np.random.SeedSequence(seed).spawn(4)
    for_delay, for_up, for_down, for_events = (np.random.default_rng(s) for s in streams)
    traces = traces or Traces()

    def walk(process: Process, trace: Floats | None, random: np.random.Generator) -> Floats:
        if trace is not None:
            return np.resize(trace, rows).round(_DIGITS)
        if process.correlation_s is None:
            return np.full(rows, process.table.values[0])
        values = path(process.table, process.correlation_s.value, step_s, rows, random)
        return values.round(_DIGITS)

    round_trip = walk(profile.round_trip_ms, traces.round_trip_ms, for_delay)
    up_ms = (profile.round_trip_ms.up_share.value * round_trip).round(_DIGITS)
    state = _states(profile, rows, step_s, for_events)
    rate_up = walk(profile.up.rate_mbit, traces.rate_up_mbit, for_up)
    rate_down = walk(profile.down.rate_mbit, traces.rate_down_mbit, for_down)
    return Timeline(
        name=f"{profile.name}+{traces.name}" if traces.rows else profile.name,
        kind="trace" if traces.rows else profile.kind,
        seed=seed,
        step_s=step_s,
        up=_direction(profile.up, up_ms, rate_up, state),
        down=_direction(profile.down, (round_trip - up_ms).round(_DIGITS), rate_down, state),
        idle=None if profile.idle is None else profile.idle.idle,
    )


def _rows(seed: int, duration_s: float, step_s: float) -> int:
    least, most = _STEP_S
    if seed < 0:
        raise InvalidInput("seed", f"{seed} is below 0")
    if not least <= step_s <= most:
        raise InvalidInput(
            "step", f"{1000 * step_s:g} ms is not in {1000 * least:g} to {1000 * most:g} ms"
        )
    if not step_s <= duration_s <= _MOST_ROWS * step_s:
        span = f"{step_s:g} to {_MOST_ROWS * step_s:g} s, at this step"
        raise InvalidInput("duration", f"{duration_s:g} s is not in {span}")
    return round(duration_s / step_s)


def _direction(
    way: Way, delay_ms: Floats, rate_mbit: Floats, state: NDArray[np.uint8]
) -> Direction:
    # A measured rate of 0 is an outage in which the network keeps what it has.
    held = np.where((rate_mbit == 0) & (state == State.OPEN), np.uint8(State.HOLD), state)
    return Direction(delay_ms, rate_mbit, held, way.queue_bytes.value, way.loss.loss)


def _states(
    profile: Profile, rows: int, step_s: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """(rows,) of State: each event is a Poisson process; where two overlap, drop is stronger than hold."""
    state = np.full(rows, State.OPEN, np.uint8)
    for event in profile.events:
        count = random.poisson(event.per_minute.value * rows * step_s / 60)
        first = random.integers(rows, size=count)
        length_s = event.duration_ms.table.at(random.uniform(size=count)) / 1000
        lengths = np.maximum(1, np.rint(length_s / step_s)).astype(int)
        for start, length in zip(first.tolist(), lengths.tolist(), strict=True):
            here = state[start : start + length]
            np.maximum(here, np.uint8(State[event.mode.upper()]), out=here)
    return state
