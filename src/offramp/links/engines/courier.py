"""Hands over what comes out of a pipe, on the event loop, when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from offramp.links.engines.alarm import new_alarm
from offramp.links.engines.pipe import Delivery, Pipe

Item = TypeVar("Item")


class Courier(Generic[Item]):
    """Calls `deliver` with each delivery of a pipe and the seconds by which it is late, in order."""

    def __init__(self, pipe: Pipe[Item], deliver: Callable[[Delivery[Item], float], None]) -> None:
        self._pipe, self._deliver = pipe, deliver
        self._now = asyncio.get_running_loop().time
        self._alarm = new_alarm(self._ring)
        self._set_s = inf

    def look(self) -> None:
        """The pipe has changed: set the alarm where its next item is due at another time than it is set to."""
        due_s = self._pipe.next_due_s()
        if due_s != self._set_s:
            self._set_s = due_s
            self._alarm.set(due_s)

    def _ring(self) -> None:
        self._set_s = inf
        for delivery in self._pipe.release(self._now()):
            self._deliver(delivery, self._now() - delivery.due_s)
        self.look()

    def close(self) -> None:
        """Deliver nothing any more."""
        self._alarm.close()
