"""The way to the next tier, or the lack of one."""

from __future__ import annotations

import time
from typing import Protocol

from offramp.errors import OfframpError, TierUnavailable
from offramp.rpc import Reply, Sample, StreamOptions, TierStream
from offramp.telemetry import TierMetrics


class Uplink(Protocol):
    """Where an engine hands on what its stages leave."""

    async def ask(self, sample: Sample) -> Reply:
        """The next tier's answer. Raises TierUnavailable, DeadlineExceeded, or what the tier's status says."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether it is of use to ask."""
        ...

    def start(self) -> None:
        """Begin to connect."""
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class NoUplink:
    """A tier with nothing above it."""

    is_connected = False

    async def ask(self, _sample: Sample) -> Reply:
        """Refuse."""
        raise TierUnavailable("unreachable", "this tier has no uplink")

    def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to let go."""


class StreamUplink:
    """One stream to the next tier.

    reserve_s: how long before a sample's deadline the wait ends, so that the exit at hand still answers in time.
    """

    def __init__(
        self, target: str, options: StreamOptions, *, reserve_s: float, metrics: TierMetrics
    ) -> None:
        self._reserve_s, self._metrics = reserve_s, metrics
        self._stream = TierStream(
            target,
            options,
            count_bytes=lambda direction, count: metrics.count_bytes("upstream", direction, count),
        )

    @property
    def is_connected(self) -> bool:
        """Whether the stream is open."""
        return self._stream.is_connected

    def start(self) -> None:
        """Begin to connect; until the stream is open, samples are refused at once."""
        self._stream.start()

    async def ask(self, sample: Sample) -> Reply:
        """The next tier's answer, within the sample's deadline less the reserve."""
        began = time.monotonic()
        try:
            reply = await self._stream.ask(sample, sample.deadline - self._reserve_s)
        except OfframpError as exc:
            if exc.bytes_up:  # one that was refused here made no hop
                self._metrics.hop_seconds.observe(time.monotonic() - began)
            raise
        self._metrics.hop_seconds.observe(time.monotonic() - began)
        return reply

    async def close(self) -> None:
        """End the stream."""
        await self._stream.close()
