"""Which engine runs: the one asked for, or the first that works here; never another in silence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from offramp.errors import InvalidSettings
from offramp.links.engines import netem_engine
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.link import Link
from offramp.links.engines.netem_engine import NetemEngine
from offramp.links.engines.observer import Observer
from offramp.links.engines.packet import PacketEngine
from offramp.links.engines.stream import StreamEngine
from offramp.links.engines.tun import TunSegment
from offramp.links.timeline import Timeline

logger = logging.getLogger(__name__)

Name = Literal["netem", "packet", "stream"]


class Engine(Protocol):
    """A link between two addresses."""

    link: Link[Any]
    mtu: int

    @property
    def name(self) -> Name:
        """Which engine this is."""

    async def start(self) -> Endpoint:
        """Accept connections; returns the address."""

    def facts(self) -> dict[str, Any]:
        """What a report names beside the engine."""

    def changed(self) -> None:
        """The link was switched, cut or restored."""

    async def close(self) -> None:
        """Listen no more, and reset every connection."""


def _why_no_packets() -> str | None:
    try:
        TunSegment(1500).close()
    except OSError as exc:
        return f"/dev/net/tun: {exc.strerror} (CAP_NET_ADMIN)"
    return None


# In the order in which `auto` tries them: the most exact first.
PROBES: Final[dict[Name, Callable[[], str | None]]] = {
    "netem": netem_engine.why_not,
    "packet": _why_no_packets,
    "stream": lambda: None,
}


def choose(
    wanted: Name | Literal["auto"], probes: dict[Name, Callable[[], str | None]] = PROBES
) -> Name:
    """The engine to run; with `auto` the first that works, and the log says why not the ones before.

    Raises InvalidSettings where the engine asked for by name does not work here.
    """
    if wanted != "auto":
        reason = probes[wanted]()
        if reason is not None:
            raise InvalidSettings("engine", f"{wanted} does not work here: {reason}")
        return wanted
    for name, why_not in probes.items():
        reason = why_not()
        if reason is None:
            logger.info("engine %s, chosen by trying", name)
            return name
        logger.info("not engine %s: %s", name, reason)
    raise InvalidSettings("engine", "none works here")


def build(
    name: Name, timeline: Timeline, listen: Endpoint, target: Endpoint, observer: Observer
) -> Engine:
    """The engine, not yet started. Raises OSError where the system refuses it."""
    kinds: dict[Name, Callable[..., Engine]] = {
        "netem": NetemEngine,
        "packet": PacketEngine,
        "stream": StreamEngine,
    }
    return kinds[name](timeline, listen, target, observer)
