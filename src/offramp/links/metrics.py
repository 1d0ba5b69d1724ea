"""The metrics of a link; docs/metrics.md says which question each one answers.

What happens to packets is counted as it happens; what is in force is looked up when somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from offramp.links.engines.link import WAYS, Drop, Link, Way

# From what a timer can do (0.1 ms) to an emulator that has no processor left.
_LATENESS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class LinkMetrics:
    """Counters, gauges and a histogram of one link, on a registry of its own; an Observer of its engine."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._bytes = self._by_way(Counter, "bytes", "What was delivered, packet headers included.")
        lateness = Histogram(
            "offramp_link_lateness_seconds",
            "Delivery: actual minus due.",
            ("direction",),
            buckets=_LATENESS_S,
            registry=self.registry,
        )
        self._late = {way: lateness.labels(way) for way in WAYS}
        drops = Counter(
            "offramp_link_drops",
            "Packets lost, and why.",
            ("direction", "reason"),
            registry=self.registry,
        )
        self._drops = {(way, why): drops.labels(way, why) for way in WAYS for why in get_args(Drop)}
        self._connections = Gauge(
            "offramp_link_connections", "Connections that are open.", registry=self.registry
        )
        self._info = Gauge(
            "offramp_link_info",
            "What is emulated, and by what.",
            ("engine", "profile", "kind", "congestion"),
            registry=self.registry,
        )
        self._own_delay = Gauge(
            "offramp_link_own_delay_seconds",
            "What the engine takes one way, measured at the start and left out of each delay.",
            registry=self.registry,
        )
        self._clipped = self._by_way(Gauge, "clipped", "1: rates above the engine's limit.")
        self._queue = self._by_way(Gauge, "queue_bytes", "What waits for the rate.")
        self._delay = self._by_way(Gauge, "delay_seconds", "The one-way delay in force.")
        self._rate = self._by_way(Gauge, "rate_bytes", "Bytes a second in force; 0: not open.")
        self._state = self._by_way(Gauge, "state", "0 open, 1 hold, 2 drop.")

    def _by_way(self, kind: Callable[..., Any], name: str, text: str) -> dict[Way, Any]:
        family = kind(f"offramp_link_{name}", text, ("direction",), registry=self.registry)
        return {way: family.labels(way) for way in WAYS}

    # --- what an engine tells ----------------------------------------------------------------

    def delivered(self, way: Way, size_bytes: int, late_s: float) -> None:
        """See Observer."""
        self._bytes[way].inc(size_bytes)
        self._late[way].observe(late_s)

    def dropped(self, way: Way, why: Drop) -> None:
        """See Observer."""
        self._drops[way, why].inc()

    def connected(self, change: int) -> None:
        """See Observer."""
        self._connections.inc(change)

    # --- what is in force ----------------------------------------------------------------------

    def made_up_for(self, own_delay_s: float) -> None:
        """What the engine itself takes, one way."""
        self._own_delay.set(own_delay_s)

    def watch(self, link: Link[Any], engine: str, congestion: str) -> None:
        """Say from now on what this link has in force; again after every change."""
        timeline = link.timeline
        self._info.clear()
        self._info.labels(engine, timeline.name, timeline.kind, congestion).set(1)
        for way in WAYS:
            self._clipped[way].set(link.is_clipped(way))
            self._queue[way].set_function(_of(lambda now, w=way: link.pipes[w].backlog_bytes(now)))
            self._delay[way].set_function(_of(lambda now, w=way: link.row(w, now).delay_s))
            self._rate[way].set_function(_of(lambda now, w=way: link.row(w, now).rate_bytes_s))
            self._state[way].set_function(_of(lambda now, w=way: link.row(w, now).state))


def _of(value: Callable[..., float]) -> Callable[[], float]:
    return lambda: float(value(time.monotonic()))
