"""A radio that sleeps: after a pause the first packet waits until the radio is connected again."""

from __future__ import annotations

from math import inf

from numpy.random import Generator

from offramp.links.timeline import Idle


class Radio:
    """Both directions share it: traffic of either keeps it awake. It is asleep at first."""

    def __init__(self, idle: Idle | None, random: Generator) -> None:
        self._last_s = -inf
        self.follow(idle, random)

    def follow(self, idle: Idle | None, random: Generator) -> None:
        """From now on as `idle` says; whoever was awake stays so."""
        self._idle, self._random = idle, random

    def wakes_s(self, now_s: float) -> float:
        """A packet comes now: when the radio can carry it; `now_s` where it is awake already."""
        awake_s = now_s
        if self._idle is not None and now_s - self._last_s >= self._idle.after_s:
            awake_s += float(self._idle.delay_ms.at(self._random.random())) / 1e3
        self._last_s = max(self._last_s, awake_s)
        return awake_s
