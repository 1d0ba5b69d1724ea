"""Several replicas of the next tier: found by name or list, a stream each, samples to the one with room."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, scripted

from offramp.client import AsyncClient
from offramp.rpc import Tier
from offramp.serving.settings import UplinkSettings
from offramp.serving.uplink import addresses_of

UNSURE = SURE_AT[2]


async def test_samples_under_way_are_spread_over_the_replicas(scores: Path) -> None:
    clouds = [ScriptedTier(lambda _: None) for _ in range(3)]
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(scripted(cloud)) for cloud in clouds]
        above = ", ".join(addresses)
        fog = await stack.enter_async_context(running(Tier.FOG, scores, 1, above))
        client = await stack.enter_async_context(AsyncClient(fog.listen))
        await eventually(lambda: scrape(fog.metrics)["offramp_upstreams", ""] == 3)
        asking = [asyncio.create_task(client.infer(UNSURE)) for _ in range(9)]
        await eventually(lambda: sum(len(cloud.samples) for cloud in clouds) == 9)
        assert [len(cloud.samples) for cloud in clouds] == [3, 3, 3]
        for cloud in clouds:
            for sample in cloud.samples:
                cloud.answer(sample)
        assert {(await one).degraded for one in asking} == {None}


async def test_what_a_replica_drops_another_one_answers(scores: Path) -> None:
    dying, living = ScriptedTier(lambda _: None), ScriptedTier(lambda _: answer())
    async with AsyncExitStack() as stack:
        doomed = AsyncExitStack()
        address = await doomed.enter_async_context(scripted(dying))
        other = await stack.enter_async_context(scripted(living))
        fog = await stack.enter_async_context(running(Tier.FOG, scores, 1, f"{address},{other}"))
        client = await stack.enter_async_context(AsyncClient(fog.listen))
        await eventually(lambda: scrape(fog.metrics)["offramp_upstreams", ""] == 2)
        asking = [asyncio.create_task(client.infer(UNSURE)) for _ in range(4)]
        await eventually(lambda: dying.samples)
        await doomed.aclose()
        answers = await asyncio.gather(*asking)
    assert [one.degraded for one in answers] == [None] * 4


async def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(family: int, address: str) -> Any:
        return family, socket.SOCK_STREAM, 6, "", (address, 7102)

    async def lookup(host: str, port: int, **_options: Any) -> list[Any]:
        if host == "nowhere":
            raise socket.gaierror(-2, "Name or service not known")
        four = [entry(socket.AF_INET, "10.0.0.4"), entry(socket.AF_INET, "10.0.0.5")]
        six = [entry(socket.AF_INET6, "fd00::1")]
        return {"fog": four + six, "six": six}[host]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    assert await addresses_of(["fog:7102"]) == dict.fromkeys(
        ("10.0.0.4:7102", "10.0.0.5:7102"), "fog"
    )
    assert await addresses_of(["six:7102", "nowhere:1"]) == {"[fd00::1]:7102": "six"}


@pytest.mark.parametrize("host", ["a" * 64, "fog..net", ".fog"])
async def test_what_cannot_be_a_name_has_no_addresses(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "offramp.serving.uplink")
    assert await addresses_of([f"{host}:1", "127.0.0.1:2"]) == {"127.0.0.1:2": "127.0.0.1"}
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{host}:1: ")


def test_addresses_are_a_list_of_host_and_port() -> None:
    assert UplinkSettings(address="a:1, b:2").address == "a:1,b:2"
    with pytest.raises(ValueError, match=r"'b' is not HOST:PORT"):
        UplinkSettings(address="a:1,b")
