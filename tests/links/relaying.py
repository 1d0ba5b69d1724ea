"""Timelines a reader can check by hand, and a relay with both ends, for the engines' tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from offramp.links.engines.choosing import Engine, Name, build
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.link import Drop, Way
from offramp.links.timeline import Direction, Loss, State, Timeline

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def steady(
    delay_ms: float = 5,
    rate_mbit: float = 100,
    *,
    queue_bytes: int = 200_000,
    loss: Loss | None = None,
    state: State = State.OPEN,
    name: str = "steady",
) -> Timeline:
    """One row for ever, the same both ways."""
    way = Direction(
        np.array([delay_ms]), np.array([rate_mbit]), np.array([state], np.uint8), queue_bytes, loss
    )
    return Timeline(name, "estimate", 0, 0.1, way, way)


@dataclass
class Counted:
    """An Observer that keeps what it is told."""

    sizes: Counter[Way] = field(default_factory=Counter)
    drops: Counter[tuple[Way, Drop]] = field(default_factory=Counter)
    late_s: list[float] = field(default_factory=list)
    connections: int = 0

    def delivered(self, way: Way, size_bytes: int, late_s: float) -> None:
        self.sizes[way] += size_bytes
        self.late_s.append(late_s)

    def dropped(self, way: Way, why: Drop) -> None:
        self.drops[way, why] += 1

    def connected(self, change: int) -> None:
        self.connections += change


@dataclass
class Relay:
    engine: Engine
    address: Endpoint
    counted: Counted

    async def connect(self) -> Streams:
        return await asyncio.open_connection(*self.address)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The target that most tests have: what comes goes back, to the end."""
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def relaying(
    name: Name,
    timeline: Timeline,
    target: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = echo,
) -> AsyncIterator[Relay]:
    """An engine between here and a target."""
    tasks = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(target(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    counted = Counted()
    there = Endpoint(*server.sockets[0].getsockname()[:2])
    engine = build(name, timeline, Endpoint("127.0.0.1", 0), there, counted)
    try:
        yield Relay(engine, await engine.start(), counted)
    finally:
        await engine.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def through(streams: Streams, payload: bytes) -> bytes:
    """What comes back of a payload, read while it is being written, and the connection's end."""
    reader, writer = streams

    async def write() -> None:
        writer.write(payload)
        await writer.drain()
        writer.write_eof()

    _, back = await asyncio.gather(write(), reader.read())
    writer.close()
    return back
