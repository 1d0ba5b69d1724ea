"""A tier above that fails is not waited for: a breaker before each replica, and hops foreseen from those before."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path

import pytest
from tests.serving.tiers import Program, eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, scripted

from offramp.client import AsyncClient
from offramp.rpc import Tier
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.breaker import Breaker
from offramp.serving.foresight import HopTime

UNSURE = SURE_AT[2]


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    breaker = Breaker(failures=3, late_share=1.0)
    for outcome in "fffsffsfs":
        assert breaker.lets_through
        breaker.succeed() if outcome == "s" else breaker.fail("unreachable")
        if breaker.state == "open":
            break
    assert outcome == "f"
    assert breaker.reason == "unreachable"
    assert not breaker.lets_through


@pytest.mark.parametrize(("late_of_four", "state"), [(1, "closed"), (2, "open"), (3, "open")])
def test_a_share_of_late_answers_opens_it(late_of_four: int, state: str) -> None:
    breaker = Breaker(failures=100, late_share=0.5)
    for k in range(20):
        breaker.fail("deadline") if k % 4 < late_of_four else breaker.succeed()
    assert breaker.state == state
    assert breaker.reason == ("deadline" if state == "open" else "unreachable")


def test_half_open_lets_one_request_try_and_its_end_decides() -> None:
    states: list[str] = []
    breaker = Breaker(failures=1, late_share=0.5, told=states.append)
    breaker.fail("unreachable")
    breaker.probe()
    assert breaker.lets_through
    first = breaker.begin()
    assert not breaker.lets_through
    breaker.give_up(first)  # its caller has gone: another may try
    assert breaker.lets_through
    breaker.begin()
    breaker.fail("deadline")
    breaker.probe()
    breaker.begin()
    breaker.succeed()
    assert breaker.lets_through
    assert states == ["open", "half_open", "open", "half_open", "closed"]


def test_half_open_lets_no_second_one_try_when_another_than_the_first_is_given_up() -> None:
    breaker = Breaker(failures=1, late_share=0.5)
    ordinary = breaker.begin()
    breaker.fail("unreachable")
    breaker.probe()
    earlier = breaker.begin()
    breaker.fail("deadline")
    breaker.probe()
    trial = breaker.begin()
    for number in (ordinary, earlier):
        breaker.give_up(number)
        assert not breaker.lets_through
    breaker.give_up(trial)
    assert breaker.lets_through


def test_a_hop_is_foreseen_from_those_of_the_last_seconds() -> None:
    hops = HopTime(0.5)
    for k in range(7):
        hops.learn(float(k) / 10, 1.0)
    assert hops.foreseen_s(1.0) == 0.0  # too few to go by
    for _ in range(9):
        hops.learn(1.0, 0.1)
    assert hops.foreseen_s(1.0) == 0.1
    assert hops.foreseen_s(100.0) == 0.0  # all of them too long ago


async def test_a_tier_above_that_is_stopped_is_not_waited_for_and_asked_again_once_it_goes_on(
    scores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "offramp.serving.replica")
    cloud = Program("cloud", scores)
    try:
        async with (
            running(Tier.DEVICE, scores, 0, cloud.listen, reserve_s=0.2) as device,
            AsyncClient(device.listen) as client,
        ):
            assert (await client.infer(UNSURE)).degraded is None
            cloud.send(signal.SIGSTOP)
            # The first ones wait as long as their deadline allows; those that still wait then need not.
            first = await asyncio.gather(*(client.infer(UNSURE, deadline_s=0.5) for _ in range(5)))
            assert {one.degraded for one in first} <= {"deadline", "unreachable"}
            await eventually(lambda: scrape(device.metrics)[state(cloud, "open")] == 1)
            began = time.monotonic()
            given = await client.infer(UNSURE, deadline_s=30)
            assert given.degraded in ("deadline", "unreachable")
            assert time.monotonic() - began < 15  # of the 30 that it could have waited
            await eventually(lambda: not device.uplink.is_connected)
            assert (await client.infer(UNSURE, deadline_s=30)).degraded == "unreachable"
            cloud.send(signal.SIGCONT)
            await eventually(lambda: scrape(device.metrics)[state(cloud, "open")] == 0)
            assert (await client.infer(UNSURE)).degraded is None
            metrics = scrape(device.metrics)
        assert metrics[state(cloud, "closed")] == 1
        for name in ("open", "half_open", "closed"):
            assert metrics["offramp_breaker_transitions_total", f'state="{name}"'] == 1
        said = [r.message for r in caplog.records if r.message.startswith("breaker to ")]
        target = f"breaker to {cloud.listen}: "
        assert said == [target + text for text in ("open (deadline)", "half_open", "closed")]
    finally:
        cloud.kill()


async def test_a_tier_above_that_answers_too_late_is_tried_now_and_then(scores: Path) -> None:
    """It lives, so that its connection stays; what waits on it is not given up."""
    cloud = ScriptedTier(lambda one: answer() if one.id.sequence % 2 else None)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, reserve_s=0.2) as device,
        AsyncClient(device.listen) as client,
    ):
        outcomes = [(await client.infer(UNSURE, deadline_s=0.4)).degraded for _ in range(10)]
        assert outcomes.count("deadline") == outcomes.count(None) == 5
        given = await client.infer(UNSURE, deadline_s=2)
        assert given.degraded == "deadline"
        cloud.script = lambda _: answer()
        await eventually(lambda: scrape(device.metrics)[at(address, "half_open")] == 1)
        assert (await client.infer(UNSURE)).degraded is None
        assert scrape(device.metrics)[at(address, "closed")] == 1
    assert cloud.streams == 1


async def test_who_gives_up_waiting_for_what_was_sent_before_lets_no_second_one_try(
    scores: Path,
) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, reserve_s=0.2) as device,
        AsyncClient(device.listen) as client,
    ):
        before = [asyncio.create_task(client.infer(UNSURE, deadline_s=30)) for _ in range(10)]
        await eventually(lambda: len(cloud.samples) == 10)
        late = await asyncio.gather(*(client.infer(UNSURE, deadline_s=0.5) for _ in range(5)))
        assert {one.degraded for one in late} == {"deadline"}
        for one in before[:5]:  # so that the window, narrowed by now, has room
            one.cancel()
        await eventually(lambda: len(cloud.cancels) == 10)
        await eventually(lambda: scrape(device.metrics)[at(address, "half_open")] == 1)
        trial = asyncio.create_task(client.infer(UNSURE, deadline_s=30))
        await eventually(lambda: len(cloud.samples) == 16)
        before[5].cancel()
        await eventually(lambda: len(cloud.cancels) == 11)
        assert (await client.infer(UNSURE, deadline_s=5)).degraded == "deadline"
        assert len(cloud.samples) == 16
        cloud.answer(cloud.samples[15])
        assert (await trial).degraded is None
        assert scrape(device.metrics)[at(address, "closed")] == 1
        for one in before:
            one.cancel()


async def test_a_sample_that_could_not_be_back_in_time_is_not_sent(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    answered: list[pb.Sample] = []

    async def answer_later() -> None:
        while True:
            if waiting := cloud.samples[len(answered) :]:
                await asyncio.sleep(0.2)
                cloud.answer(waiting[0])
                answered.append(waiting[0])
            await asyncio.sleep(0.005)

    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        answering = asyncio.create_task(answer_later())
        for _ in range(8):
            assert (await client.infer(UNSURE)).degraded is None
        assert (await client.infer(UNSURE, deadline_s=0.15)).degraded == "deadline"
        assert len(cloud.samples) == 8
        assert (await client.infer(UNSURE)).degraded is None
        answering.cancel()


def state(cloud: Program, name: str) -> tuple[str, str]:
    """What the metrics call that state of the breaker before a program."""
    return at(cloud.listen, name)


def at(address: str, name: str) -> tuple[str, str]:
    """The same, of an address."""
    return "offramp_breaker_state", f'state="{name}",upstream="{address}"'
