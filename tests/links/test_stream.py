"""The stream engine, over loopback: a machine may be slow, so times are bounded from below only."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from tests.links.relaying import Counted, echo, relaying, steady, through
from tests.serving.tiers import eventually

from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.stream import StreamEngine
from offramp.links.timeline import State


async def test_bytes_come_back_as_they_went_on_every_connection() -> None:
    payloads = [bytes([n]) * (50_000 + n) for n in range(4)]
    async with relaying("stream", steady()) as relay:
        connections = [await relay.connect() for _ in payloads]
        back = await asyncio.gather(*map(through, connections, payloads))
        assert back == payloads
        await eventually(lambda: relay.counted.connections == 0)
        assert relay.counted.sizes["up"] > sum(map(len, payloads))  # headers count


async def test_a_round_trip_takes_both_delays() -> None:
    async with relaying("stream", steady(delay_ms=30)) as relay:
        reader, writer = await relay.connect()
        for _ in range(2):
            begun = time.monotonic()
            writer.write(b"x" * 64)
            await reader.readexactly(64)
            assert time.monotonic() - begun >= 0.06
        assert min(relay.counted.late_s) >= 0
        writer.close()


async def test_connections_share_the_rate() -> None:
    async with relaying("stream", steady(delay_ms=0, rate_mbit=8)) as relay:
        connections = [await relay.connect() for _ in range(3)]
        begun = time.monotonic()
        await asyncio.gather(*(through(streams, bytes(60_000)) for streams in connections))
        assert time.monotonic() - begun >= 3 * 60_000 / 1e6


async def test_a_full_queue_pushes_back() -> None:
    async with relaying("stream", steady(rate_mbit=8, queue_bytes=20_000)) as relay:
        _, writer = await relay.connect()
        pipe, most = relay.engine.link.pipes["up"], 0.0
        writer.write(bytes(400_000))
        while relay.counted.sizes["up"] < 300_000:
            most = max(most, pipe.backlog_bytes(time.monotonic()))
            await asyncio.sleep(0.005)
        assert 10_000 < most < 20_000 + 2 * 1500  # a chunk at this rate is one packet
        writer.close()


async def test_each_direction_ends_on_its_own() -> None:
    async def answer_after_the_end(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = await reader.read()
        writer.write(b"heard " + asked)
        writer.close()

    async with relaying("stream", steady(), answer_after_the_end) as relay:
        assert await through(await relay.connect(), b"you") == b"heard you"


async def test_a_reset_crosses_the_link() -> None:
    lost = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(100):
                pass
        except ConnectionError:
            lost.set()
        writer.close()

    async with relaying("stream", steady(), wait_for_the_end) as relay:
        _, writer = await relay.connect()
        writer.write(b"x")
        await eventually(lambda: relay.counted.sizes["up"] > 100)
        handle = writer.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await lost.wait()


async def test_a_target_that_refuses_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = Endpoint(*taken.getsockname())
    engine = StreamEngine(steady(), Endpoint("127.0.0.1", 0), nobody, Counted())
    address = await engine.start()
    reader, writer = await asyncio.open_connection(*address)
    with pytest.raises(ConnectionError):
        await reader.read()
    writer.close()
    await engine.close()


async def test_nothing_passes_a_cut_and_everything_after_it() -> None:
    async with relaying("stream", steady()) as relay:
        reader, writer = await relay.connect()
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        relay.engine.link.cut(time.monotonic())
        relay.engine.changed()
        writer.write(b"within")
        await eventually(lambda: relay.engine.link.pipes["up"].backlog_bytes(time.monotonic()) > 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        relay.engine.link.restore(time.monotonic())
        relay.engine.changed()
        assert await reader.readexactly(6) == b"within"
        writer.close()


async def test_a_drop_is_held_and_ends_by_itself() -> None:
    async with relaying("stream", steady()) as relay:
        reader, writer = await relay.connect()
        now = time.monotonic()
        relay.engine.link.cut(now, now + 0.2, State.DROP)
        relay.engine.changed()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert time.monotonic() >= now + 0.2
        writer.close()


async def test_a_switch_under_load_loses_no_byte_and_no_connection() -> None:
    payload = bytes(range(256)) * 2000
    async with relaying("stream", steady(delay_ms=40, rate_mbit=20)) as relay:
        flows = [asyncio.create_task(through(await relay.connect(), payload)) for _ in range(2)]
        for reached, delay_ms, rate_mbit in (
            (200_000, 1, 400),
            (400_000, 60, 10),
            (600_000, 5, 200),
        ):
            await eventually(lambda most=reached: relay.counted.sizes["up"] > most)  # type: ignore[misc]
            relay.engine.link.switch(steady(delay_ms, rate_mbit), time.monotonic())
            relay.engine.changed()
        assert await asyncio.gather(*flows) == [payload, payload]


async def test_closing_leaves_no_connection() -> None:
    async with relaying("stream", steady(state=State.HOLD)) as relay:
        reader, _writer = await relay.connect()
        await eventually(lambda: relay.counted.connections == 1)
        await relay.engine.close()
        with pytest.raises(ConnectionError):
            await reader.read()


async def test_an_address_in_use_is_refused() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    taken = Endpoint(*server.sockets[0].getsockname()[:2])
    engine = StreamEngine(steady(), taken, taken, Counted())
    with pytest.raises(OSError, match="in use"):
        await engine.start()
    await engine.close()
    server.close()
