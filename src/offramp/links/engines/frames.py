"""What a payload weighs on the wire: the packets that it would travel in."""

from __future__ import annotations

from offramp.links.timeline import Timeline

HEADERS_BYTES = 52  # IPv4 20, TCP 20 and its timestamps 12
USUAL_MTU, JUMBO_MTU = 1500, 9000
_JUMBO_ABOVE_MBIT = (
    300  # a packet engine in Python makes 285 Mbit/s of 300 at 1500 bytes, 861 of 1000
)


def mtu_for(timeline: Timeline, limit_mbit: float) -> int:
    """The packet size in bytes for the fastest row: engines that are to agree use the same."""
    fastest = max(way.rate_mbit.max() for way in (timeline.up, timeline.down))
    return JUMBO_MTU if min(fastest, limit_mbit) > _JUMBO_ABOVE_MBIT else USUAL_MTU


def wire_bytes(payload_bytes: int, mtu: int) -> int:
    """The payload and a header for each packet that it fills or begins; one header for no payload."""
    packets = max(1, -(-payload_bytes // (mtu - HEADERS_BYTES)))
    return payload_bytes + packets * HEADERS_BYTES


def payload_share(mtu: int) -> float:
    """The part of a full packet that is payload: 0.965 at 1500 bytes."""
    return 1 - HEADERS_BYTES / mtu
