"""Changing a link that runs: the commands, their answers, and what is wrong with some."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.links.relaying import steady

from offramp.errors import InvalidInput, InvalidSettings
from offramp.links.control import Cut, ask, parse_command
from offramp.links.emulator import Emulator, Settings
from offramp.links.engines.endpoints import Endpoint, check_resolves, parse_endpoint
from offramp.links.timeline import Timeline

HERE = Endpoint("127.0.0.1", 0)


def by_name(name: str, seed: int | None) -> Timeline:
    if name != "slow":
        raise InvalidInput("profile", f"there is no {name!r}; near: slow")
    return steady(delay_ms=80, rate_mbit=2000, name=f"slow {seed}")


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine takes by itself is measured for seconds, and no matter here."""

    async def nothing(_engine: str) -> float:
        return 0.0

    monkeypatch.setattr("offramp.links.emulator.measure_own_delay_s", nothing)


@asynccontextmanager
async def running(control: str, **settings: Any) -> AsyncIterator[Emulator]:
    emulator = Emulator(
        Settings(engine="stream", listen=HERE, target=HERE, control=control, **settings),
        steady(),
        by_name,
    )
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.close()


async def told(control: str, **command: Any) -> dict[str, Any]:
    return await asyncio.to_thread(ask, control, command)


async def test_a_profile_is_switched_and_the_answer_says_what_is_in_force(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    async with running(control):
        assert (await told(control, do="status"))["profile"] == "steady"
        status = await told(control, do="profile", profile="slow", seed=4)
        assert status["profile"] == "slow 4"
        assert status["up"] == {"delay_ms": 80, "rate_mbit": 1000, "state": "open"}
        assert status["clipped"] == ["up", "down"]
        assert status["limit_mbit"] == 1000


async def test_a_timeline_comes_from_a_file(tmp_path: Path) -> None:
    control, file = str(tmp_path / "control"), tmp_path / "line.csv"
    steady(delay_ms=7, name="mine").write(file)
    async with running(control):
        status = await told(control, do="timeline", timeline=str(file))
        assert (status["profile"], status["down"]["delay_ms"]) == ("mine", 7)


async def test_a_cut_lasts_until_it_is_restored_or_its_seconds_are_over(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    async with running(control) as emulator:
        assert (await told(control, do="cut"))["up"]["state"] == "hold"  # stream cannot lose
        assert (await told(control, do="profile", profile="slow"))["cut"]
        status = await told(control, do="restore")
        assert (status["cut"], status["up"]["state"]) == (False, "open")
        status = await told(control, do="cut", state="hold", seconds=0.2)
        assert 0 < status["cut_left_s"] <= 0.2
        await asyncio.sleep(0.2)
        assert not emulator.status()["cut"]


async def test_metrics_show_a_switch() -> None:
    async with running("127.0.0.1:0") as emulator:

        def shown() -> str:
            return generate_latest(emulator.metrics.registry).decode()

        assert 'offramp_link_delay_seconds{direction="up"} 0.005' in shown()
        assert 'engine="stream",kind="estimate",profile="steady"} 1.0' in shown()
        await emulator.obey(parse_command(b'{"do": "profile", "profile": "slow"}'))
        assert 'offramp_link_delay_seconds{direction="up"} 0.08' in shown()
        assert 'offramp_link_rate_bytes{direction="down"} 1.25e+08' in shown()
        assert 'offramp_link_clipped{direction="up"} 1.0' in shown()
        assert 'profile="slow None"} 1.0' in shown()
        assert 'profile="steady"' not in shown()
        await emulator.obey(Cut(do="cut"))
        assert 'offramp_link_state{direction="up"} 1.0' in shown()
        assert 'offramp_link_rate_bytes{direction="down"} 0.0' in shown()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "command: Invalid JSON"),
        (b"[]", "command: "),
        (b'{"do": "fly"}', "command: "),
        (b'{"do": "cut", "seconds": -1}', "cut.seconds: Input should be greater than 0"),
        (b'{"do": "cut", "state": "open"}', "cut.state: Input should be 'drop' or 'hold'"),
        (b'{"do": "restore", "now": 1}', "restore.now: no such key"),
        (b'{"do": "profile", "profile": "slwo"}', "profile: there is no 'slwo'; near: slow"),
        (b'{"do": "timeline", "timeline": "/no/such"}', "/no/such: there is no such file"),
        (b"x" * 5000, "command: longer than 4096 bytes"),
    ],
)
async def test_a_bad_command_gets_one_line_and_changes_nothing(
    tmp_path: Path, line: bytes, message: str
) -> None:
    control = str(tmp_path / "control")
    async with running(control) as emulator:
        reader, writer = await asyncio.open_unix_connection(control)
        writer.write(line + b"\n")
        assert json.loads(await reader.readline())["error"].startswith(message)
        writer.close()
        assert emulator.status()["profile"] == "steady"


async def test_the_refusal_reaches_whoever_asked(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    async with running(control):
        with pytest.raises(InvalidInput, match="profile: there is no 'x'; near: slow"):
            await told(control, do="profile", profile="x")


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"control: no link answers at .*: No such file"):
        ask(str(tmp_path / "nothing"), {"do": "status"})
    with pytest.raises(InvalidInput, match="control: 'nowhere' is not HOST:PORT"):
        ask("nowhere", {"do": "status"})


async def test_an_address_that_is_taken_is_named() -> None:
    async with running("") as one:
        settings = Settings(engine="stream", listen=one.address, target=HERE)
        other = Emulator(settings, steady(), by_name)
        with pytest.raises(InvalidSettings, match=f"listen: {one.address}: .*in use"):
            await other.start()
        await other.close()


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:65536", "host:x", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--target: .* is not HOST:PORT"):
        parse_endpoint("--target", text)


def test_addresses_are_read() -> None:
    assert parse_endpoint("x", "fog:7102") == ("fog", 7102)
    assert str(parse_endpoint("x", "[::1]:7102")) == "[::1]:7102"


def test_a_name_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"--target: 'no\.such\.host\.invalid' does not resolve"):
        check_resolves("--target", Endpoint("no.such.host.invalid", 1))
