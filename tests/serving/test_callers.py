"""What one caller, by what it says, cannot do to the others or to the tier."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.serving import toy
from tests.serving.tiers import eventually, running, scrape
from tests.serving.wire import calling, sample, tensors

from offramp.client import AsyncClient
from offramp.errors import BundleMismatch, InvalidInput, TierUnavailable
from offramp.rpc import Origin, Sample, SampleId, Tier
from offramp.rpc.status import error_of, status_of
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc
from offramp.serving import conversation
from offramp.serving.admission import Admission

LIMITED = ("offramp_limits_total", 'limit="streams_per_peer"')


@pytest.mark.parametrize(
    ("many", "reads"),
    [
        (pb.Request(samples=[pb.Sample()] * 6_400), "sample_from_proto"),
        (pb.Request(cancels=[pb.SampleId()] * 6_400), "id_from_proto"),
    ],
)
async def test_a_message_of_many_leaves_the_others_their_turn(
    scores: Path, monkeypatch: pytest.MonkeyPatch, many: pb.Request, reads: str
) -> None:
    read, at_once, most = getattr(conversation, reads), 0, 0

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal at_once
        at_once += 1
        return read(*given, **more)

    async def take_turns() -> None:
        nonlocal at_once, most
        while True:
            at_once, most = 0, max(most, at_once)
            await asyncio.sleep(0)

    monkeypatch.setattr(conversation, reads, counted)
    async with running(Tier.DEVICE, scores, 2) as device, calling(device.listen) as caller:
        others = asyncio.create_task(take_turns())
        await caller.call.write(many)
        await caller.say(sample(1, toy.SURE_AT[0]))
        assert (await caller.result(1)).HasField("answer")
        others.cancel()
    assert 0 < most <= 64


async def test_boundaries_that_there_are_not_leave_nothing_behind(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 2) as device, calling(device.listen) as caller:
        payload = tensors(b"")
        made_up = [sample(k, boundary=1_000 + k, payload=payload) for k in range(500)]
        # The first one waits, so that how long the others would wait is foreseen.
        await caller.say(sample(500, toy.SURE_AT[0]), *made_up)
        for k in range(500):
            assert (await caller.result(k)).status.field == "boundary"
        assert max(device.engine.held.batcher._times) < 3


async def test_a_payload_of_countless_tensors_is_not_looked_at(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 2) as device, calling(device.listen) as caller:
        await caller.say(sample(1, payload=tensors(*[b""] * 1_000)))
        assert await caller.status(1) == ("INVALID_ARGUMENT", "payload.tensors")
        assert caller.results[1].status.message == "1000 tensors, over the limit of 256"


async def test_a_tier_that_says_itself_that_it_cannot_answer_keeps_its_breaker_closed(
    scores: Path,
) -> None:
    """One caller's samples are of a boundary for which the fog has neither a stage nor a cloud."""
    async with (
        running(Tier.FOG, scores, 1, "127.0.0.1:9", connected=False) as fog,
        running(Tier.DEVICE, scores, 0, fog.listen) as device,
        AsyncClient(device.listen) as client,
        calling(device.listen) as caller,
    ):
        fields = {"boundary": 2, "payload": tensors(bytes(12), bytes(4))}
        await caller.say(*(sample(k, **fields) for k in range(20)))
        for k in range(20):
            assert (await caller.status(k))[0] == "UNAVAILABLE"
        answer = await client.infer(toy.SURE_AT[1])
        assert (answer.tier, answer.degraded) == (Tier.FOG, None)
        opened = [v for k, v in scrape(device.metrics).items() if k[1].endswith('state="open"')]
    assert sum(opened) == 0


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("f" * 9_000, "\0" * 9_000),
        BundleMismatch("policy", "m" * 9_000),
        TierUnavailable("overloaded", "t" * 9_000),
    ],
)
def test_what_a_caller_said_is_not_sent_back_at_any_length(error: Exception) -> None:
    status = status_of(error)
    assert len(status.field) + len(status.message) < 1_100
    assert type(error_of(status)) is type(error)


async def test_a_kind_of_image_that_nobody_decodes_goes_no_further(scores: Path) -> None:
    """A tier that computes nothing itself would hand it on, and get it back in the error."""
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.FOG, scores, -1, cloud.listen) as fog,
        calling(fog.listen) as caller,
    ):
        image = pb.Image(data=b"x", media_type="\0" * 100_000)
        await caller.say(sample(1, payload=pb.Payload(image=image)))
        status = (await caller.result(1)).status
        await eventually(lambda: not fog.engine.in_flight)
        assert scrape(cloud.metrics)["offramp_requests_total", 'outcome="invalid"'] == 0
    assert status.field == "payload.image.media_type"
    assert len(status.message) < 600


class _Idle:
    def needed_s(self, _origin: Origin, _stage: int) -> float:
        return 0.0


def test_many_origins_of_one_caller_do_not_keep_another_out() -> None:
    admission = Admission(Tier.DEVICE, 256)

    def is_let_in(origin: Origin) -> bool:
        one = Sample(
            id=SampleId(origin, 1), boundary=0, network="", policy="", deadline=0.0, payload=()
        )
        admission.enter(origin)
        try:
            admission.refuse_excess(one, _Idle())  # type: ignore[arg-type]
        except TierUnavailable:
            admission.leave(origin)
            return False
        return True

    assert all(is_let_in(Origin("many", k)) for k in range(300))
    assert is_let_in(Origin("another", 1))
    assert not is_let_in(Origin("another", 1))  # which now has its share


async def test_a_tier_without_a_store_does_not_say_that_it_keeps_anything(
    scores: Path, tmp_path: Path
) -> None:
    """The fog does, under its own address: this tier's callers cannot ask it."""
    store = {"folder": str(tmp_path)}
    async with (
        running(Tier.FOG, scores, 1, "127.0.0.1:9", connected=False, store=store) as fog,
        running(Tier.DEVICE, scores, 0, fog.listen) as device,
        AsyncClient(fog.listen) as of_fog,
        AsyncClient(device.listen) as of_device,
    ):
        asked = [await client.infer(toy.SURE_AT[2]) for client in (of_fog, of_device)]
    assert [(one.tier, one.degraded) for one in asked] == [(Tier.FOG, "unreachable")] * 2
    assert [one.stored for one in asked] == [True, False]


async def test_whoever_watches_the_health_counts_among_the_calls_of_its_side(scores: Path) -> None:
    limits = {"streams_per_peer": 2}
    async with (
        running(Tier.DEVICE, scores, 2, limits=limits) as device,
        grpc.aio.insecure_channel(device.listen) as channel,
        # gRPC itself keeps those of one connection within the limit.
        grpc.aio.insecure_channel(device.listen, [("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        health = health_pb2_grpc.HealthStub(other)
        tier: Any = tier_pb2_grpc.TierStub(other)  # type: ignore[no-untyped-call]
        for ask in (health.Check, tier.Describe):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(health_pb2.HealthCheckRequest())
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watches[0].cancel()
        await eventually(lambda: scrape(device.metrics)[LIMITED] == 2)
        for _ in range(100):
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert await tier.Describe(pb.DescribeRequest())
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the call that ended still counts")
