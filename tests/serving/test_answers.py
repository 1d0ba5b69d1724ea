"""What a tier does with a sample that no exit of its own is sure of: hand it on, answer first, or answer alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.serving.tiers import clean_environment, eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import NAMES, ScriptedTier, answer, calling, sample, scripted

from offramp.client import AsyncClient
from offramp.errors import InvalidInput
from offramp.rpc import Answer, Tier
from offramp.rpc.v1 import tier_pb2 as pb

UNSURE = SURE_AT[2]
FIRST = "answer-then-escalate"


async def test_the_answer_so_far_comes_first_and_the_better_one_later(scores: Path) -> None:
    cloud, told = ScriptedTier(lambda _: None), []
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        asking = asyncio.create_task(client.infer(UNSURE, early=told.append))
        await eventually(lambda: told and cloud.samples)
        assert not asking.done()
        (asked,) = cloud.samples
        assert not asked.early  # of the tier that was asked alone
        cloud.answer(asked)
        final = await asking
        found = scrape(device.metrics)
    (early,) = told
    assert (early.exit, early.label, early.degraded, early.certified) == (0, 0, None, False)
    assert (final.exit, len(told)) == (2, 1)
    assert found["offramp_early_answers_total", ""] == 1
    assert found["offramp_requests_total", 'outcome="answered"'] == 1


async def test_a_sample_that_leaves_here_has_one_answer(scores: Path) -> None:
    told: list[Answer] = []
    async with running(Tier.CLOUD, scores, 2) as cloud, AsyncClient(cloud.listen) as client:
        for image in SURE_AT:
            assert (await client.infer(image, early=told.append)).degraded is None
    assert told == []


async def test_a_failed_hop_still_has_one_final_answer(scores: Path) -> None:
    told: list[Answer] = []
    async with running(Tier.DEVICE, scores, 0) as device, AsyncClient(device.listen) as client:
        final = await client.infer(UNSURE, early=told.append)
    assert (final.degraded, [one.degraded for one in told]) == ("unreachable", [None])


async def test_a_tier_that_answers_first_tells_whoever_asks_on_the_stream(scores: Path) -> None:
    cloud = ScriptedTier(lambda asked: answer(2))
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, answers=FIRST) as device,
        calling(device.listen) as caller,
    ):
        await caller.say(sample(1, UNSURE))
        results: list[pb.Result] = []
        while not (results and results[-1].final):
            results += (await caller.call.read()).results
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.stub.Infer(pb.Request(names=NAMES, samples=[sample(2, UNSURE)]))
        local = pb.Request(names=NAMES, samples=[sample(3, UNSURE, local=True)])
        alone = await caller.stub.Infer(local)
    assert [(one.id.sequence, one.final, one.answer.exit) for one in results] == [
        (1, False, 0),
        (1, True, 2),
    ]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "early: an early answer needs the stream" in refused.value.details()
    assert alone.results[0].answer.degraded == pb.DEGRADED_POLICY


async def test_no_early_answer_where_none_comes_later(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 0) as device, AsyncClient(device.listen) as client:
        with pytest.raises(InvalidInput, match="early: with `local` there is no later answer"):
            await client.infer(UNSURE, local=True, early=lambda _: None)


async def test_a_tier_that_answers_alone_dials_nobody(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    only: dict[str, Any] = {"answers": "local-only", "connected": False}
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address, **only) as device,
        AsyncClient(device.listen) as client,
    ):
        unsure, sure = await client.infer(UNSURE), await client.infer(SURE_AT[0])
    assert (unsure.exit, unsure.degraded, unsure.certified) == (0, "policy", False)
    assert (sure.exit, sure.degraded) == (0, None)
    assert cloud.streams == 0


def test_infer_shows_the_answer_so_far(start: Any, scores: Path, tmp_path: Path) -> None:
    import numpy as np

    cloud = start("cloud", scores)
    device = start("device", scores, "--uplink.address", cloud.listen)
    np.save(tmp_path / "unsure.npy", UNSURE)
    command = [str(Path(sys.executable).with_name("offramp")), "infer", "--device", device.listen]
    done = subprocess.run(
        [*command, "--early", str(tmp_path / "unsure.npy")],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
    )
    first, last = done.stdout.splitlines()
    assert "so far (exit 0)" in first
    assert "(cloud, exit 2" in last
    refused = subprocess.run(
        [*command, "--early", "--local", "x.npy"], capture_output=True, text=True, timeout=60
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--early: with --local there is no later answer" in refused.stderr
