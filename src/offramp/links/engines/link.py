"""A link: two pipes under one timeline, and what changes them while traffic flows.

    switch(timeline)  another timeline from its first row       what is queued stays, and nothing overtakes
    cut(until)        nothing passes                            over whatever timeline is in force
    restore()         the timeline again, where it would be by now

Pure: an engine gives the time, and asks the pipes what is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from offramp.links.engines.curve import Curve, ShutCurve, TimelineCurve
from offramp.links.engines.idle import Radio
from offramp.links.engines.loss import GilbertElliott
from offramp.links.engines.pipe import Pipe
from offramp.links.timeline import Direction, Loss, State, Timeline

Way = Literal["up", "down"]
Drop = Literal["loss", "queue", "outage"]
WAYS: Final[tuple[Way, Way]] = ("up", "down")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do: rates up to limit_mbit, and whether a packet can get lost in it."""

    limit_mbit: float
    lossless: bool


class Row(NamedTuple):
    """What is in force for one direction; the rate is 0 where it is not open."""

    delay_s: float
    rate_bytes_s: float
    state: State


class _Cut(NamedTuple):
    until_s: float
    state: State


class Link(Generic[Item]):
    """Both directions of a link from `now_s` on. Times given to its methods never fall."""

    def __init__(self, timeline: Timeline, now_s: float, abilities: Abilities) -> None:
        self._abilities = abilities
        self._cut = _Cut(-inf, State.HOLD)
        self._awake_s = -inf
        self._radio = Radio(None, np.random.default_rng(timeline.seed))
        self._take(timeline, now_s)
        self.pipes: dict[Way, Pipe[Item]] = {
            way: Pipe(self._shaped(way, now_s), _direction(timeline, way).queue_bytes)
            for way in WAYS
        }

    def _take(self, timeline: Timeline, now_s: float) -> None:
        self.timeline, self.origin_s = timeline, now_s
        # The stream [seed, 1], for [seed] alone compiled the timeline.
        random = np.random.default_rng([timeline.seed, 1])
        self._radio.follow(timeline.idle, random)
        self._curves: dict[Way, TimelineCurve] = {}
        self._losses: dict[Way, GilbertElliott | None] = {}
        for way in WAYS:
            direction = _direction(timeline, way)
            self._curves[way] = TimelineCurve(
                direction,
                timeline.step_s,
                now_s,
                limit_mbit=self._abilities.limit_mbit,
                lossless=self._abilities.lossless,
            )
            self._losses[way] = self._loss(direction.loss, random)

    def _loss(self, loss: Loss | None, random: np.random.Generator) -> GilbertElliott | None:
        if loss is None or self._abilities.lossless:
            return None
        return GilbertElliott(loss, random)

    def _shaped(self, way: Way, now_s: float) -> Curve:
        curve: Curve = self._curves[way]
        if self._cut.until_s > now_s:
            curve = ShutCurve(curve, *self._cut)
        if self._awake_s > now_s:
            curve = ShutCurve(curve, self._awake_s)
        return curve

    def _follow(self, now_s: float) -> None:
        for way, pipe in self.pipes.items():
            queue_bytes = _direction(self.timeline, way).queue_bytes
            pipe.follow(self._shaped(way, now_s), queue_bytes, now_s)

    def send(self, way: Way, item: Item, size_bytes: int, now_s: float) -> Drop | None:
        """Put a packet on the link; says why where it was dropped. A lossless link takes all."""
        self._wake(now_s)
        pipe, loss = self.pipes[way], self._losses[way]
        if not self._abilities.lossless:
            if pipe.curve.state(now_s) == State.DROP:
                return "outage"
            if loss is not None and loss.loses():
                return "loss"
            if not pipe.fits(size_bytes, now_s):
                return "queue"
        pipe.push(item, size_bytes, now_s)
        return None

    def _wake(self, now_s: float) -> None:
        awake_s = self._radio.wakes_s(now_s)
        if awake_s > now_s:
            self._awake_s = awake_s
            self._follow(now_s)

    def switch(self, timeline: Timeline, now_s: float) -> None:
        """Another timeline, from its first row on; a cut stays."""
        self._take(timeline, now_s)
        self._follow(now_s)

    def cut(self, now_s: float, until_s: float = inf, state: State = State.DROP) -> None:
        """Nothing passes until then: HOLD keeps what comes, DROP loses it (on a lossless link both keep it)."""
        self._cut = _Cut(until_s, State.HOLD if self._abilities.lossless else state)
        self._follow(now_s)

    def restore(self, now_s: float) -> None:
        """End a cut."""
        self.cut(now_s, -inf)

    def allow_for(self, own_delay_s: float) -> None:
        """So much of each delay is the engine's own work."""
        for pipe in self.pipes.values():
            pipe.own_delay_s = own_delay_s

    def cut_until_s(self, now_s: float) -> float | None:
        """When the cut in force ends (inf: when it is restored); None: there is none."""
        return self._cut.until_s if self._cut.until_s > now_s else None

    def row(self, way: Way, now_s: float) -> Row:
        """What is in force for a direction."""
        curve = self._curves[way]
        state = self.pipes[way].curve.state(now_s)
        rate = curve.rate_bytes_s(now_s) if state == State.OPEN else 0.0
        return Row(curve.delay_s(now_s), rate, state)

    @property
    def limit_mbit(self) -> float:
        """Rates above it are clipped to it."""
        return self._abilities.limit_mbit

    def is_clipped(self, way: Way) -> bool:
        """Whether the timeline has rates that this engine cannot reach."""
        return bool(_direction(self.timeline, way).rate_mbit.max() > self._abilities.limit_mbit)


def _direction(timeline: Timeline, way: Way) -> Direction:
    return timeline.up if way == "up" else timeline.down
