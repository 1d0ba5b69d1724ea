"""Hands over what comes out of a pipe, on the event loop, when it is due.

An alarm rings late, by the time that the system takes to wake a process: 0.1 ms, and more on a machine that sleeps.
So it is set ahead by as much as it was late of late, and what is due until then goes with it. And it does not ring
for every packet of a fast flow: a packet alone costs several times what it costs in company (wake-ups, small reads).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from offramp.links.engines.alarm import new_alarm
from offramp.links.engines.pipe import Delivery, Pipe

Item = TypeVar("Item")

_LEARNT_FROM_ONE = 0.05  # of a ring's lateness
_APART_S = 0.00025  # from one ring to the next
_MOST_AHEAD_S = 0.0005  # more is a machine that is too busy, which no lead makes up for


class Courier(Generic[Item]):
    """Calls `deliver` with each delivery of a pipe and the seconds by which it is late, in order."""

    def __init__(self, pipe: Pipe[Item], deliver: Callable[[Delivery[Item], float], None]) -> None:
        self._pipe, self._deliver = pipe, deliver
        self._now = asyncio.get_running_loop().time
        self._alarm = new_alarm(self._ring)
        self._set_s = inf
        self._ahead_s = 0.0
        self._rang_s = -inf

    def look(self) -> None:
        """The pipe has changed: set the alarm where its next item is due at another time than it is set to."""
        due_s = self._pipe.next_due_s()
        if due_s != self._set_s:
            self._set_s = due_s
            self._alarm.set(max(due_s - self._ahead_s, self._rang_s + _APART_S))

    def _ring(self) -> None:
        self._rang_s = now_s = self._now()
        late_s = now_s - self._set_s
        self._set_s = inf
        for delivery in self._pipe.release(now_s + self._ahead_s):
            self._deliver(delivery, max(0.0, self._now() - delivery.due_s))
        self._ahead_s = min(max(0.0, self._ahead_s + _LEARNT_FROM_ONE * late_s), _MOST_AHEAD_S)
        self.look()

    def close(self) -> None:
        """Deliver nothing any more."""
        self._alarm.close()
