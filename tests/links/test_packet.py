"""The packet engine: what it does to packets, and, where a TUN device may be made, real TCP across it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import pytest
from tests.links.relaying import relaying, steady, through

from offramp.errors import InvalidSettings
from offramp.links.engines.choosing import PROBES, choose
from offramp.links.engines.frames import mtu_for, payload_share, wire_bytes
from offramp.links.engines.tun import swapped, way_of
from offramp.links.timeline import Loss

reason = PROBES["packet"]()
needs_tun = pytest.mark.skipif(reason is not None, reason=f"no TUN device here: {reason}")


def internet_sum(data: bytes) -> int:
    """The ones' complement sum that IP, TCP and UDP carry; 0xffff over data with a right checksum."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet(source_port: int, destination_port: int, protocol: int = 17) -> bytes:
    """From 198.18.0.1 to 198.18.0.2, with a right checksum."""
    body = struct.pack("!HHHH", source_port, destination_port, 8, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28, 7, 0, 64, protocol, 0)
    addresses = socket.inet_aton("198.18.0.1") + socket.inet_aton("198.18.0.2")
    checksum = 0xFFFF ^ internet_sum(head + addresses)
    return head[:10] + struct.pack("!H", checksum) + addresses + body


def test_the_port_says_which_way_a_packet_goes() -> None:
    assert way_of(packet(40_000, 5000), 5000) == "up"
    assert way_of(packet(5000, 40_000, 6), 5000) == "down"


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\x60" + bytes(60),
        packet(1, 2),
        packet(40_000, 5000, protocol=1),
        packet(1, 5000)[:20],
    ],
    ids=["empty", "IPv6", "another port", "ICMP", "short"],
)
def test_what_is_not_the_segments_goes_no_way(other: bytes) -> None:
    assert way_of(other, 5000) is None


def test_a_fragment_has_no_ports() -> None:
    whole = packet(40_000, 5000)
    assert way_of(whole[:6] + b"\x00\x10" + whole[8:], 5000) is None


def test_swapping_the_addresses_keeps_the_checksum_right() -> None:
    before = packet(40_000, 5000)
    after = swapped(before)
    assert internet_sum(before[:20]) == internet_sum(after[:20]) == 0xFFFF
    assert after[12:20] == before[16:20] + before[12:16]
    assert swapped(after) == before


def test_packets_are_larger_only_above_300_mbit() -> None:
    assert mtu_for(steady(rate_mbit=300), 900) == 1500
    assert mtu_for(steady(rate_mbit=301), 900) == 9000
    assert mtu_for(steady(rate_mbit=301), 200) == 1500  # clipped


def test_a_payload_weighs_what_its_packets_do() -> None:
    assert wire_bytes(1448, 1500) == 1500
    assert wire_bytes(1449, 1500) == 1449 + 2 * 52
    assert wire_bytes(0, 1500) == 52
    assert payload_share(1500) == pytest.approx(0.9653, abs=1e-4)


@needs_tun
async def test_bytes_cross_as_real_tcp() -> None:
    payloads = [bytes([n]) * (40_000 + n) for n in range(3)]
    async with relaying("packet", steady()) as relay:
        connections = [await relay.connect() for _ in payloads]
        back = await asyncio.gather(*map(through, connections, payloads))
        assert back == payloads
        assert relay.engine.facts()["congestion"] != "unknown"


@needs_tun
async def test_a_round_trip_takes_both_delays_and_the_first_one_a_handshake_more() -> None:
    async with relaying("packet", steady(delay_ms=30)) as relay:
        took = []
        reader, writer = await relay.connect()
        for _ in range(2):
            begun = time.monotonic()
            writer.write(b"x" * 64)
            await reader.readexactly(64)
            took.append(time.monotonic() - begun)
        assert took[0] >= 0.12
        assert took[1] >= 0.06
        writer.close()


@needs_tun
async def test_bytes_survive_loss_and_a_full_queue() -> None:
    loss = Loss(enter=0.01, leave=0.5, in_good=0.005, in_bad=0.5)
    timeline = steady(delay_ms=2, rate_mbit=40, queue_bytes=15_000, loss=loss)
    payload = bytes(range(256)) * 1600
    async with relaying("packet", timeline) as relay:
        assert await through(await relay.connect(), payload) == payload
        assert relay.counted.drops["up", "loss"] + relay.counted.drops["up", "queue"] > 0


@needs_tun
async def test_a_cut_loses_packets_and_no_connection() -> None:
    async with relaying("packet", steady()) as relay:
        reader, writer = await relay.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        now = time.monotonic()
        relay.engine.link.cut(now, now + 0.3)
        relay.engine.changed()
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"  # sent again by TCP
        assert time.monotonic() >= now + 0.3
        assert relay.counted.drops["up", "outage"] > 0
        writer.close()


@needs_tun
async def test_a_switch_under_load_loses_no_byte() -> None:
    payload = bytes(range(256)) * 3000
    async with relaying("packet", steady(delay_ms=20, rate_mbit=20)) as relay:
        flow = asyncio.create_task(through(await relay.connect(), payload))
        await asyncio.sleep(0.1)
        relay.engine.link.switch(steady(delay_ms=2, rate_mbit=400), time.monotonic())
        relay.engine.changed()
        assert await flow == payload


@needs_tun
async def test_a_target_that_hangs_up_ends_the_clients_connection() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with relaying("packet", steady(), hang_up) as relay:
        reader, writer = await relay.connect()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


@needs_tun
async def test_two_engines_have_a_segment_each() -> None:
    async with relaying("packet", steady()) as one, relaying("packet", steady()) as other:
        assert one.engine.facts()["segment"]["near"] != other.engine.facts()["segment"]["near"]
        assert await through(await one.connect(), b"one") == b"one"
        assert await through(await other.connect(), b"other") == b"other"


# --- choosing ---------------------------------------------------------------------------------


def test_auto_takes_the_first_that_works(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    probes = {"netem": lambda: "no such qdisc", "packet": lambda: None, "stream": lambda: None}
    assert choose("auto", probes) == "packet"  # type: ignore[arg-type]
    assert "not engine netem: no such qdisc" in caplog.text
    assert "engine packet, chosen by trying" in caplog.text


def test_an_engine_asked_for_by_name_is_never_replaced() -> None:
    probes = {"netem": lambda: "no such qdisc", "stream": lambda: None}
    with pytest.raises(InvalidSettings, match="engine: netem does not work here: no such qdisc"):
        choose("netem", probes)  # type: ignore[arg-type]
