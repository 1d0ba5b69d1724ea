"""The one engine of all tiers, over real sockets and onnxruntime, against tiers above that do as they are told."""

from __future__ import annotations

import asyncio
import gc
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.serving import toy
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, calling, sample, scripted

from offramp.client import AsyncClient
from offramp.errors import DeadlineExceeded, InvalidInput, TierUnavailable
from offramp.rpc import Answer, Sample, Tier
from offramp.rpc.pending import Asked
from offramp.serving.request import Request
from offramp.serving.turns import Turn
from offramp.serving.work import Work

UNSURE = SURE_AT[2]


async def deployed(stack: AsyncExitStack, bundle: Path, last_stages: tuple[int, int, int]) -> str:
    """The address of a device on a fog node on a cloud, that end at these stages; connected."""
    address: str | None = None
    for tier, last in zip((Tier.CLOUD, Tier.FOG, Tier.DEVICE), reversed(last_stages), strict=True):
        parts = await stack.enter_async_context(running(tier, bundle, last, address))
        address = parts.listen
    assert address is not None
    return address


async def test_a_sample_leaves_at_the_first_exit_that_is_sure(scores: Path) -> None:
    async with AsyncExitStack() as stack:
        device = await deployed(stack, scores, (0, 1, 2))
        client = await stack.enter_async_context(AsyncClient(device))
        answers = [await client.infer(image) for image in SURE_AT]
    assert [a.exit for a in answers] == [0, 1, 2]
    assert [a.label for a in answers] == [0, 1, 2]
    assert [str(a.tier) for a in answers] == ["device", "fog", "cloud"]
    assert [a.degraded for a in answers] == [None, None, None]
    # By hand: exp(9) / (exp(9) + 2)
    assert [a.confidence for a in answers] == pytest.approx([0.99975] * 3, abs=1e-5)
    assert [[str(leg.tier) for leg in a.trail] for a in answers] == [
        ["device"],
        ["fog", "device"],
        ["cloud", "fog", "device"],
    ]


async def test_another_partition_is_other_tiers_and_the_same_answers(scores: Path) -> None:
    chance = np.random.default_rng(1)
    images = list(chance.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)) + list(SURE_AT)
    told: dict[tuple[int, int, int], list[Answer]] = {}
    for last_stages in ((0, 1, 2), (1, 1, 2), (1, 2, 2), (2, 2, 2), (0, 0, 2), (-1, -1, 2)):
        async with AsyncExitStack() as stack:
            device = await deployed(stack, scores, last_stages)
            client = await stack.enter_async_context(AsyncClient(device))
            told[last_stages] = await asyncio.gather(*(client.infer(i) for i in images))
    reference = told.pop((0, 1, 2))
    assert {a.exit for a in reference} == {0, 1, 2}
    assert {str(a.tier) for a in told[2, 2, 2]} == {"device"}
    assert {str(a.tier) for a in told[-1, -1, 2]} == {"cloud"}
    for answers in told.values():
        for given, wanted in zip(answers, reference, strict=True):
            assert (given.label, given.exit) == (wanted.label, wanted.exit)
            assert given.degraded is None
            np.testing.assert_allclose(given.probabilities, wanted.probabilities, atol=1e-6)


async def test_a_stage_that_is_not_held_is_left_to_the_next_tier(
    scores: Path, tmp_path: Path
) -> None:
    part = shutil.copytree(scores, tmp_path / "part")
    (part / "stage0.onnx").unlink()
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.FOG, part, 1, cloud.listen) as fog,
        AsyncClient(fog.listen) as client,
    ):
        given = await client.infer(SURE_AT[1])
    assert (given.exit, str(given.tier), given.degraded) == (1, "cloud", None)


async def test_the_callers_own_mistake_comes_back_through_a_tier_that_passes_on(
    scores: Path,
) -> None:
    broken = toy.pixels((1, 0, 0)).tobytes()
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.DEVICE, scores, -1, cloud.listen) as device,
        calling(device.listen) as caller,
    ):
        png = {"image": {"data": broken, "media_type": "image/png"}}
        await caller.say(sample(1, payload=png))
        assert await caller.status(1) == ("INVALID_ARGUMENT", "payload.image")


async def test_a_cancel_frees_the_sample_all_the_way_up(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(scripted(cloud))
        fog = await stack.enter_async_context(running(Tier.FOG, scores, 1, address))
        device = await stack.enter_async_context(running(Tier.DEVICE, scores, 0, fog.listen))
        client = await stack.enter_async_context(AsyncClient(device.listen))
        asking = asyncio.create_task(client.infer(UNSURE))
        await eventually(lambda: cloud.samples)
        assert (device.engine.in_flight, fog.engine.in_flight) == (1, 1)
        asking.cancel()
        await eventually(lambda: cloud.cancels)
        assert (device.engine.in_flight, fog.engine.in_flight) == (0, 0)
        assert scrape(fog.metrics)["offramp_requests_total", 'outcome="cancelled"'] == 1


async def test_a_caller_that_hangs_up_frees_its_samples(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with scripted(cloud) as address, running(Tier.FOG, scores, 1, address) as fog:
        async with calling(fog.listen) as caller:
            await caller.say(sample(1, UNSURE))
            await eventually(lambda: cloud.samples)
        await eventually(lambda: cloud.cancels)
        assert fog.engine.in_flight == 0


async def test_stopping_answers_what_was_accepted_and_refuses_the_rest(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(scripted(cloud))
        device = await stack.enter_async_context(running(Tier.DEVICE, scores, 0, address))
        client = await stack.enter_async_context(AsyncClient(device.listen))
        accepted = asyncio.create_task(client.infer(UNSURE))
        await eventually(lambda: cloud.samples)
        stopping = asyncio.create_task(device.server.stop(20.0))
        await eventually(lambda: device.engine.is_draining)
        with pytest.raises(TierUnavailable):
            await client.infer(SURE_AT[0])
        cloud.answer(cloud.samples[0])
        assert ((await accepted).exit, (await accepted).degraded) == (2, None)
        await stopping


async def test_a_policy_that_the_caller_names_decides_on_every_tier(scores: Path) -> None:
    async with AsyncExitStack() as stack:
        device = await deployed(stack, scores, (0, 1, 2))
        client = await stack.enter_async_context(AsyncClient(device))
        never = await client.infer(SURE_AT[0], policy="never")
        always = await client.infer(UNSURE, policy="always")
    assert (never.exit, str(never.tier), never.label) == (2, "cloud", 2)
    assert (always.exit, str(always.tier), always.label) == (0, "device", 0)
    assert never.policy != always.policy


async def test_what_a_sample_took_is_freed_once_it_is_over(scores: Path, tmp_path: Path) -> None:
    """By count of references, without a collection: under load that comes late, and a message is large."""
    per_sample = {Asked, Request, Sample, Turn, Work}
    gc.collect()
    gc.disable()
    try:
        async with AsyncExitStack() as stack:
            device = await deployed(stack, scores, (0, 1, 2))
            client = await stack.enter_async_context(AsyncClient(device))
            await asyncio.gather(*(client.infer(image) for image in SURE_AT * 20))
            with pytest.raises(DeadlineExceeded):
                await client.infer(UNSURE, deadline_s=1e-6)
            with pytest.raises(InvalidInput):
                await client.infer(UNSURE[:2])
            gone = asyncio.create_task(client.infer(UNSURE))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait([gone])
            del gone
            part = shutil.copytree(scores, tmp_path / "part")
            (part / "stage0.onnx").unlink()
            cut_off = running(Tier.FOG, part, 1, "127.0.0.1:9", connected=False)
            passing = await stack.enter_async_context(cut_off)
            lost = await stack.enter_async_context(AsyncClient(passing.listen))
            with pytest.raises(TierUnavailable):
                await lost.infer(UNSURE)
            await eventually(
                lambda: not [one for one in gc.get_objects() if type(one) in per_sample]
            )
    finally:
        gc.enable()
