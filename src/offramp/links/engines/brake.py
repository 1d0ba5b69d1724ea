"""Pushing back on whoever sends into a full queue, for an engine that cannot lose."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from offramp.links.engines.alarm import new_alarm
from offramp.links.engines.frames import USUAL_MTU
from offramp.links.engines.pipe import Pipe

_REASON = "queue"
_LOW_WATER = 7 / 8  # of the queue: where a sender that was pushed back goes on


class Reader(Protocol):
    """What can be held; a reader may have several reasons to wait."""

    def wait(self, reason: str) -> None:
        """Read nothing until go_on(reason)."""

    def go_on(self, reason: str) -> None:
        """That reason is gone."""


class Brake:
    """Holds the readers of one direction while its queue is full."""

    def __init__(self, pipe: Pipe[Any]) -> None:
        self._pipe = pipe
        self._now = asyncio.get_running_loop().time
        self._alarm = new_alarm(self.look)
        self._held: set[Reader] = set()

    def apply(self, reader: Reader) -> None:
        """Hold the reader if there is no room for another packet."""
        if not self._has_room():
            if not self._held:
                self._set()
            self._held.add(reader)
            reader.wait(_REASON)

    def look(self) -> None:
        """Let the readers go on where there is room by now; else find out anew when there will be."""
        if self._has_room():
            held, self._held = self._held, set()
            for reader in held:
                reader.go_on(_REASON)
        elif self._held:
            self._set()

    def _has_room(self) -> bool:
        return self._pipe.fits(USUAL_MTU, self._now())

    def _set(self) -> None:
        queue_bytes = self._pipe.queue_bytes
        low = max(0.0, min(queue_bytes * _LOW_WATER, queue_bytes - USUAL_MTU))
        self._alarm.set(self._pipe.eases_s(low))

    def close(self) -> None:
        """Let nobody go on."""
        self._alarm.close()
