"""What an engine takes for itself, measured on this machine when a link starts, so that delays can make up for it.

    bare          client <-> peer
    through       client <-> engine, whose timeline is a plain delay <-> peer      own = (through - bare) / 2 - delay

Reading a packet, waking for it and handing it on takes some tenths of a millisecond: nothing to an LTE link, a tenth
of a fibre's round trip.
"""

from __future__ import annotations

import asyncio

import numpy as np

from offramp.links import probing
from offramp.links.engines.choosing import Name, build
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.link import Drop, Way
from offramp.links.timeline import Direction, State, Timeline

_DELAY_MS, _MBIT, _QUEUE_BYTES = 3.0, 100.0, 1_000_000
# Apart enough for a processor to fall asleep in between, as it does when a device asks 50 times a second. The first
# half lets the engine's timers learn how late they are.
_PROBES, _SECONDS = 100, 1.2
_MOST_S = 0.001  # more is a machine that has no time for a link, and says so by its lateness


class _Nobody:
    """Counts nothing."""

    def delivered(self, way: Way, size_bytes: int, late_s: float) -> None:
        """See Observer."""

    def dropped(self, way: Way, why: Drop) -> None:
        """See Observer."""

    def connected(self, change: int) -> None:
        """See Observer."""


async def measure_own_delay_s(name: Name) -> float:
    """One way, in seconds, of a small message; 0 for netem, where packets are the kernel's and relays alone remain.

    Raises OSError where the system refuses the engine.
    """
    if name == "netem":
        return 0.0
    peer = probing.Peer()
    try:
        bare_s = await _median_round_trip_s(peer.endpoint)
        engine = build(name, _plain(), Endpoint("127.0.0.1", 0), peer.endpoint, _Nobody())
        try:
            through_s = await _median_round_trip_s(await engine.start())
        finally:
            await engine.close()
    finally:
        peer.close()
    return min(max(0.0, (through_s - bare_s) / 2 - _DELAY_MS / 1e3), _MOST_S)


def _plain() -> Timeline:
    way = Direction(
        np.array([_DELAY_MS]), np.array([_MBIT]), np.array([State.OPEN], np.uint8), _QUEUE_BYTES
    )
    return Timeline("plain", "estimate", 0, 0.1, way, way)


async def _median_round_trip_s(address: Endpoint) -> float:
    sent_s, _, back_s = await asyncio.to_thread(probing.round_trips, address, _PROBES, _SECONDS)
    return float(np.median((back_s - sent_s)[_PROBES // 2 :]))
