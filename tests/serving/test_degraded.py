"""An exit that would have handed on and cannot answers itself, degraded, and says why."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, calling, refusal, sample, scripted

from offramp.client import AsyncClient
from offramp.errors import DeadlineExceeded, InvalidInput
from offramp.rpc import Tier

UNSURE = SURE_AT[2]


async def test_a_tier_without_uplink_answers_at_its_last_exit(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 0) as device, AsyncClient(device.listen) as client:
        unsure, sure = await client.infer(UNSURE), await client.infer(SURE_AT[0])
    assert (unsure.exit, unsure.label, unsure.degraded) == (0, 0, "unreachable")
    assert (sure.exit, sure.label, sure.degraded) == (0, 0, None)


async def test_local_answers_make_no_hop(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        unsure, sure = [await client.infer(i, local=True) for i in (UNSURE, SURE_AT[0])]
    assert (unsure.degraded, sure.degraded) == ("policy", None)
    assert cloud.samples == []


async def test_a_deadline_too_near_for_the_hop_makes_none(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, reserve_s=60.0) as device,
        AsyncClient(device.listen) as client,
    ):
        given = await client.infer(UNSURE, deadline_s=30)
    assert (given.exit, given.degraded) == (0, "deadline")
    assert cloud.samples == []


async def test_a_slow_tier_above_costs_the_depth_and_not_the_deadline(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, reserve_s=0.5) as device,
        AsyncClient(device.listen) as client,
    ):
        given = await client.infer(UNSURE, deadline_s=1.0)  # raises if it comes too late
        await eventually(lambda: cloud.cancels)
    assert (given.exit, given.degraded) == (0, "deadline")
    assert given.trail[0].bytes_up == cloud.requests[0].ByteSize() + 5  # sent in vain, but sent
    assert cloud.cancels == [one.id.sequence for one in cloud.samples]
    assert 0 < cloud.samples[0].time_left_us <= 500_000


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        (grpc.StatusCode.UNAVAILABLE, "unreachable"),
        (grpc.StatusCode.FAILED_PRECONDITION, "mismatch"),
        (grpc.StatusCode.INVALID_ARGUMENT, "mismatch"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"),
        (grpc.StatusCode.INTERNAL, "unreachable"),
    ],
)
async def test_a_refusal_from_above_becomes_the_reason_of_a_degraded_answer(
    scores: Path, code: grpc.StatusCode, reason: str
) -> None:
    cloud = ScriptedTier(lambda _: refusal(code))
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        given = await client.infer(UNSURE)
    assert (given.exit, given.degraded) == (0, reason)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    ],
)
async def test_a_tier_without_a_stage_passes_the_refusal_on(
    scores: Path, code: grpc.StatusCode
) -> None:
    cloud = ScriptedTier(lambda _: refusal(code))
    async with (
        scripted(cloud) as address,
        running(Tier.FOG, scores, -1, address) as fog,
        calling(fog.listen) as caller,
    ):
        await caller.say(sample(1, UNSURE))
        assert await caller.status(1) == (code.name, "")


async def test_credits_used_up_mean_overloaded_at_once(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None, credits_=1)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        first = asyncio.create_task(client.infer(UNSURE))
        await eventually(lambda: cloud.samples)
        second = await client.infer(UNSURE)
        cloud.answer(cloud.samples[0])
        assert ((await first).degraded, second.degraded) == (None, "overloaded")
    assert len(cloud.samples) == 1


async def test_a_full_tier_refuses_at_once_and_the_tier_below_answers(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with (
        scripted(cloud) as address,
        running(Tier.FOG, scores, 1, address, limits={"in_flight": 1}) as fog,
        calling(fog.listen) as caller,
    ):
        await caller.say(sample(1, UNSURE))
        await eventually(lambda: cloud.samples)
        await caller.say(sample(2, UNSURE))
        assert await caller.status(2) == ("RESOURCE_EXHAUSTED", "")


async def test_a_boundary_too_large_for_the_tier_above_is_a_mismatch_in_its_own_words(
    scores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = ScriptedTier(lambda _: answer(), message_bytes=1025)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        running(Tier.DEVICE, scores, -1, address) as passing,
        AsyncClient(device.listen) as client,
        AsyncClient(passing.listen) as other,
    ):
        given = [await client.infer(UNSURE) for _ in range(2)]
        passed = await other.infer(UNSURE)
    assert [(a.exit, a.degraded, a.trail[0].bytes_up) for a in (*given, passed)] == [
        (0, "mismatch", 0)
    ] * 3
    assert cloud.samples == []
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [
        "the next tier cannot take what this one hands on: payload: "
        f"{size} bytes, over the limit of 1 in a message"
        for size in (4, 16)
    ]


async def test_another_network_above_is_a_mismatch(scores: Path, raw: Path) -> None:
    async with (
        running(Tier.CLOUD, raw, 1) as cloud,
        running(Tier.DEVICE, scores, 0, cloud.listen) as device,
        AsyncClient(device.listen) as client,
    ):
        given = await client.infer(UNSURE)
    assert (given.exit, given.degraded) == (0, "mismatch")


async def test_a_tier_that_passes_on_tells_of_a_mismatch_above(scores: Path, raw: Path) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(running(Tier.CLOUD, raw, 1))
        fog = await stack.enter_async_context(running(Tier.FOG, scores, -1, cloud.listen))
        device = await stack.enter_async_context(running(Tier.DEVICE, scores, 0, fog.listen))
        client = await stack.enter_async_context(AsyncClient(device.listen))
        given = await client.infer(UNSURE)
    assert (given.exit, given.degraded) == (0, "mismatch")


async def test_time_that_ran_out_before_any_exit_is_a_status(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 0) as device, calling(device.listen) as caller:
        await caller.say(sample(1, UNSURE, time_left_us=0), sample(2, UNSURE))
        assert await caller.status(1) == ("DEADLINE_EXCEEDED", "")
        assert (await caller.result(2)).answer.exit == 0
        assert scrape(device.metrics)["offramp_requests_total", 'outcome="expired"'] == 1


async def test_a_device_that_passes_all_on_answers_itself_when_it_cannot(scores: Path) -> None:
    async with (
        running(Tier.DEVICE, scores, -1, "127.0.0.1:1", connected=False) as device,
        AsyncClient(device.listen) as client,
    ):
        unsure, sure = await client.infer(UNSURE), await client.infer(SURE_AT[0])
        with pytest.raises(InvalidInput, match="payload"):
            await client.infer(np.zeros((2, 2, 1), np.uint8))
    assert (unsure.exit, unsure.degraded) == (0, "unreachable")
    assert (sure.exit, sure.degraded) == (0, None)


async def test_a_tier_without_a_stage_that_could_answer_says_unavailable(scores: Path) -> None:
    async with (
        running(Tier.FOG, scores, -1, "127.0.0.1:1", connected=False) as fog,
        calling(fog.listen) as caller,
    ):
        await caller.say(sample(1, UNSURE))
        assert await caller.status(1) == ("UNAVAILABLE", "")


async def test_samples_under_way_when_the_stream_breaks_are_answered_and_the_next_go_up_again(
    scores: Path,
) -> None:
    outcomes = itertools.chain([None, None], itertools.repeat(answer()))
    cloud = ScriptedTier(lambda _: next(outcomes))
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        both = asyncio.gather(client.infer(UNSURE), client.infer(UNSURE))
        await eventually(lambda: len(cloud.samples) == 2)
        cloud.hang_up()
        assert [a.degraded for a in await both] == ["unreachable", "unreachable"]
        await eventually(lambda: device.uplink.is_connected)
        assert (await client.infer(UNSURE)).degraded is None


async def test_a_client_learns_that_its_time_ran_out(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 0) as device, AsyncClient(device.listen) as client:
        await client.infer(UNSURE)
        with pytest.raises(DeadlineExceeded):
            await client.infer(UNSURE, deadline_s=1e-9)
