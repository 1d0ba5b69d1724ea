"""The way to the next tier, or the lack of one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from offramp.errors import OfframpError, TierUnavailable
from offramp.rpc import Reply, Sample, StreamOptions, TierStream
from offramp.rpc.exchange import Direction
from offramp.rpc.pending import Hear
from offramp.serving.access import Refusals
from offramp.serving.replica import GiveUp, Replica
from offramp.serving.settings import UplinkSettings
from offramp.telemetry import TierMetrics

logger = logging.getLogger(__name__)
_MOST_FOR_DISK = 0.25  # of the time that a sample has left
_KINDS = (socket.AF_INET, socket.AF_INET6)


def _nothing() -> None:
    """Where there is nothing to give up."""


class Uplink(Protocol):
    """Where an engine hands on what its stages leave."""

    def ask(self, sample: Sample, hear: Hear) -> GiveUp:
        """Ask the next tier; `hear` gets its answer or the error once, perhaps before this returns.

        The errors are TierUnavailable, DeadlineExceeded, or what the tier's status says. What is returned gives up.
        """
        ...

    @property
    def is_connected(self) -> bool:
        """Whether it is of use to ask."""
        ...

    @property
    def pressure(self) -> float:
        """The share of what the next tier takes that is under way; 1: no more, 0 also where it cannot be asked."""
        ...

    @property
    def is_at_ease(self) -> bool:
        """Whether the next tier takes what can wait: at least half of what it is sent at once is free."""
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
    pressure = 0.0
    is_at_ease = False

    def ask(self, _sample: Sample, hear: Hear) -> GiveUp:
        """Refuse."""
        hear(TierUnavailable("unreachable", "this tier has no uplink"))
        return _nothing

    def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to let go."""


class _Hop:
    """One sample's way to a replica, and to a second one where the first fails."""

    __slots__ = ("_deadline", "_give_up", "_hear", "_lost", "_other", "_replica", "_sample")

    def __init__(
        self,
        sample: Sample,
        deadline: float,
        other: Callable[[Replica], Replica | None],
        hear: Hear,
    ) -> None:
        self._sample, self._deadline, self._other, self._hear = sample, deadline, other, hear
        self._replica: Replica | None = None
        self._lost: TierUnavailable | None = None  # how the first one failed
        self._give_up: GiveUp = _nothing

    def go(self, replica: Replica | None) -> None:
        """Ask this replica."""
        if replica is None:
            self._hear(TierUnavailable("unreachable", "the next tier has no address"))
            return
        self._replica = replica
        try:
            self._give_up = replica.begin(self._sample, self._deadline, self._heard)
        except OfframpError as exc:
            self._heard(exc)

    def _heard(self, outcome: Reply | OfframpError) -> None:
        if self._lost is not None:
            self._hear(_with_bytes_of(self._lost, outcome))
            return
        if isinstance(outcome, TierUnavailable) and self._replica is not None:
            other = self._other(self._replica)
            if other is not None and other.room >= 1:
                self._lost = outcome.with_traceback(None)  # which would hold what holds it
                self.go(other)
                return
        self._hear(outcome)

    def end(self) -> None:
        """Nobody waits any more."""
        self._give_up()


def _with_bytes_of(lost: TierUnavailable, outcome: Reply | OfframpError) -> Reply | OfframpError:
    up, down = outcome.bytes_up + lost.bytes_up, outcome.bytes_down + lost.bytes_down
    if isinstance(outcome, Reply):
        return Reply(outcome.answer, up, down)
    outcome.bytes_up, outcome.bytes_down = up, down
    return outcome


class StreamUplink:
    """A stream to every replica of the next tier; a sample goes to the one with the most room.

        fog:7102 --name--> 10.0.0.4, 10.0.0.5 --a stream each--> credits each --> ask()

    Names are looked up again every options.most_backoff_s, for replicas come and go. disk_s: how long this tier's own
    answer may have to wait for its disk, where the next one gave none.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        options: StreamOptions,
        metrics: TierMetrics,
        *,
        disk_s: float = 0.0,
    ) -> None:
        self._settings, self._options, self._metrics = settings, options, metrics
        self._disk_s = disk_s
        self._refusals = Refusals(metrics, "upstream")
        self._targets = settings.address.split(",")
        self._replicas: dict[str, Replica] = {}
        self._turn = itertools.count()
        self._following: asyncio.Task[None] | None = None
        metrics.upstreams.set_function(lambda: sum(r.is_connected for r in self._replicas.values()))

    @property
    def is_connected(self) -> bool:
        """Whether a stream is open."""
        return any(replica.is_connected for replica in self._replicas.values())

    @property
    def pressure(self) -> float:
        """The share of what the replicas take that is under way."""
        loads = [replica.load for replica in self._replicas.values() if replica.is_connected]
        under_way, most = (sum(column) for column in zip(*loads, strict=True)) if loads else (0, 0)
        return min(under_way / most, 1.0) if most else 0.0

    @property
    def is_at_ease(self) -> bool:
        """Whether a replica has room to spare."""
        return any(replica.is_at_ease for replica in self._replicas.values())

    def start(self) -> None:
        """Begin to connect; until a stream is open, samples are refused at once."""
        self._following = asyncio.create_task(self._follow(), name="replicas")

    async def _follow(self) -> None:
        while True:
            found = await addresses_of(self._targets)
            for address in found.keys() - self._replicas.keys():
                stream = TierStream(
                    address,
                    self._options.of_host(found[address]),
                    count_bytes=self._count_bytes,
                    refused=self._refusals.add,
                )
                self._replicas[address] = Replica(stream, self._settings, self._metrics)
                self._replicas[address].start()
            # One that is still connected may be answering its last samples; it ends the stream itself.
            gone = [a for a, r in self._replicas.items() if a not in found and not r.is_connected]
            if found:  # else it is the name service that is gone
                await asyncio.gather(*(self._replicas.pop(address).close() for address in gone))
            await asyncio.sleep(self._options.most_backoff_s)

    def _count_bytes(self, direction: Direction, count: int) -> None:
        self._metrics.count_bytes("upstream", direction, count)

    def _roomiest(self, but: Replica | None = None) -> Replica | None:
        replicas = [r for r in self._replicas.values() if r is not but]
        if len(replicas) < 2:
            return replicas[0] if replicas else None
        first = next(self._turn) % len(replicas)
        return max(replicas[first:] + replicas[:first], key=lambda r: r.room)

    def ask(self, sample: Sample, hear: Hear) -> GiveUp:
        """Ask within the sample's deadline less the reserve; a second replica where one fails."""
        left_s = sample.deadline - time.monotonic()
        for_disk_s = min(self._disk_s, _MOST_FOR_DISK * max(left_s, 0.0))
        deadline = sample.deadline - self._settings.reserve_s - for_disk_s
        hop = _Hop(sample, deadline, self._roomiest, self._counted(hear))
        hop.go(self._roomiest())
        return hop.end

    def _counted(self, hear: Hear) -> Hear:
        began = time.monotonic()

        def counted(outcome: Reply | OfframpError) -> None:
            if outcome.bytes_up:  # one that was refused here made no hop
                self._metrics.hop_seconds.observe(time.monotonic() - began)
            hear(outcome)

        return counted

    async def close(self) -> None:
        """End the streams."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))


async def addresses_of(targets: Sequence[str]) -> dict[str, str]:
    """IP:PORT of every address that the hosts of HOST:PORT have now, and the host; one without any is left out.

    Where a host has addresses of both kinds, those of IPv4: `localhost` is one replica, not two.
    """
    found = await asyncio.gather(*map(_addresses, targets))
    return {
        address: target.rpartition(":")[0].strip("[]")
        for target, addresses in zip(targets, found, strict=True)
        for address in addresses
    }


async def _addresses(target: str) -> set[str]:
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:  # the latter of what cannot be a name
        logger.info("%s: %s", target, getattr(exc, "strerror", None) or exc)
        return set()
    both = {kind: {entry[4][0] for entry in entries if entry[0] == kind} for kind in _KINDS}
    fours, sixes = (both[kind] for kind in _KINDS)
    return {f"{address}:{port}" for address in fours} or {
        f"[{address}]:{port}" for address in sixes
    }
