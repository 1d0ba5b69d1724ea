"""What an engine tells whoever counts."""

from __future__ import annotations

from typing import Protocol

from offramp.links.engines.link import Drop, Way


class Observer(Protocol):
    """Counts what a link does; offramp.links.metrics has the one for Prometheus."""

    def delivered(self, way: Way, size_bytes: int, late_s: float) -> None:
        """A packet or chunk came out, so much after it was due; headers are in its size."""

    def dropped(self, way: Way, why: Drop) -> None:
        """A packet was lost."""

    def connected(self, change: int) -> None:
        """One connection more (1) or fewer (-1)."""
