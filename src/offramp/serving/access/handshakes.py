"""Counts the connections that never came to a call, which gRPC tells nobody about.

    gRPC, before a handshake --begun()--> waiting --heard() of a new peer--> forgotten
                                             |
                                             +--nobody heard for patience_s--> refused: handshake

Nothing says which of them is whose, and for counting nothing has to. A port scan, and a caller that connects and is
silent, count like one whose certificate is refused; a known one that calls again after a minute without a call may
cover for one that is refused at that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from offramp.serving.access.refusals import Refusals

_FORGET_S = 60.0  # as long as a port of a host stays unused after its connection has ended


class Handshakes:
    """Those that a tier has begun. Built in the event loop that serves."""

    def __init__(self, refusals: Refusals, patience_s: float) -> None:
        self._refusals, self._patience_s = refusals, patience_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[float] = deque()
        self._heard: dict[str, float] = {}  # HOST:PORT of the peer to the time of its last call

    def begun(self) -> None:
        """One more, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it this tier
            self._loop.call_soon_threadsafe(self._waiting.append, time.monotonic())

    def heard(self, peer: str) -> None:
        """A call came from this peer: its handshake, if it is new, has gone well."""
        if peer not in self._heard and self._waiting:
            self._waiting.popleft()
        self._heard[peer] = time.monotonic()

    def review(self) -> None:
        """Count those that have waited too long."""
        now = time.monotonic()
        while self._waiting and self._waiting[0] < now - self._patience_s:
            self._waiting.popleft()
            text = f"a connection brought no call within {self._patience_s:g} s"
            self._refusals.add("handshake", text)
        for peer, at in list(self._heard.items()):
            if at < now - _FORGET_S:
                del self._heard[peer]
