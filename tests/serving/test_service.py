"""The gRPC service: stream, unary call and description agree; health and reflection are the standard ones."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import CLASSES, SURE_AT
from tests.serving.wire import NAMES, Caller, ScriptedTier, answer, calling, sample, scripted

from offramp.rpc import Tier
from offramp.rpc.connection import SERVICE
from offramp.rpc.v1 import tier_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def without_times(answer: pb.Answer) -> pb.Answer:
    """The same answer, its trail reduced to the tiers."""
    copy = pb.Answer()
    copy.CopyFrom(answer)
    tiers = [leg.tier for leg in copy.trail]
    del copy.trail[:]
    copy.trail.extend(pb.Leg(tier=tier) for tier in tiers)
    return copy


async def test_stream_and_unary_call_give_the_same_answers(scores: Path) -> None:
    samples = [sample(k, image) for k, image in enumerate(SURE_AT)]
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        streamed = await caller.ask(*samples)
        unary = await caller.stub.Infer(pb.Request(names=NAMES, samples=samples))
    by_id = {result.id.sequence: result for result in unary.results}
    assert len(by_id) == 3
    for k, result in enumerate(streamed):
        assert result.final
        assert without_times(result.answer) == without_times(by_id[k].answer)
        assert (result.answer.exit, result.answer.label) == (k, k)
        assert result.answer.tier == pb.TIER_NAME_CLOUD


async def test_names_are_said_once(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        for k in range(3):
            await caller.ask(sample(k, SURE_AT[k]))
        digest, policy = cloud.engine.held.bundle.digest, cloud.engine.held.own_policy.id
    assert [name.network or name.policy for name in caller.names] == [digest, policy]


async def test_the_description_says_what_is_held_and_how_far_it_goes(scores: Path) -> None:
    limits = {"in_flight": 7, "message_bytes": 9999}
    plan = {"plan": {"last_stage": 1, "epoch": 4}, "policy": "never"}
    async with (
        running(Tier.FOG, scores, 1, limits=limits, inference={"batch": 5}, **plan) as fog,
        grpc.aio.insecure_channel(fog.listen) as channel,
    ):
        caller = Caller(channel)
        said = await caller.stub.Describe(pb.DescribeRequest())
        credits_ = await caller.open()
    (network,) = said.networks
    assert (said.tier, network.name, network.digest) == (
        pb.TIER_NAME_FOG,
        "scores",
        fog.engine.held.bundle.digest,
    )
    assert (list(network.stages), tuple(network.classes)) == ([0, 1], CLASSES)
    assert (list(network.input_shape), network.input_dtype) == ([4, 4, 1], "uint8")
    assert [policy.name for policy in network.policies] == ["never", "usual", "always"]
    assert (said.plan.last_stage, said.plan.epoch) == (1, 4)
    assert (said.limits.in_flight, said.limits.message_bytes, said.limits.batch) == (7, 9999, 5)
    assert credits_ == 7


async def test_health_is_known_for_the_whole_and_the_service_and_nothing_else(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "offramp.rpc.v1.Tier"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Check(health_pb2.HealthCheckRequest(service="offramp.rpc.v1.Other"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_turns_while_the_last_samples_are_answered(scores: Path) -> None:
    above = ScriptedTier(lambda _: None)
    async with (
        scripted(above) as address,
        running(Tier.FOG, scores, 1, address) as fog,
        calling(fog.listen) as caller,
        grpc.aio.insecure_channel(fog.listen) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await caller.say(sample(1, SURE_AT[2]))
        await eventually(lambda: above.samples)
        stopping = asyncio.create_task(fog.server.stop(20.0))
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        await eventually(lambda: fog.engine.is_draining)
        await caller.say(sample(2, SURE_AT[1]))
        assert await caller.status(2) == ("UNAVAILABLE", "")
        above.answer(above.samples[0])
        assert (await caller.result(1)).answer.label == 2
        await stopping


async def test_a_watcher_of_health_does_not_hold_up_the_stop(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        began = time.monotonic()
        await cloud.server.stop(30.0)
        assert time.monotonic() - began < 15


async def test_reflection_lists_the_service(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
    names = {service.name for service in answer.list_services_response.service}
    assert {"offramp.rpc.v1.Tier", "grpc.health.v1.Health"} <= names


async def test_the_deadline_of_a_unary_call_is_grpcs_own(scores: Path) -> None:
    above = ScriptedTier(lambda _: None)
    request = pb.Request(names=NAMES, samples=[sample(1, SURE_AT[2])])
    async with (
        scripted(above) as address,
        running(Tier.FOG, scores, 1, address, reserve_s=0.5) as fog,
        grpc.aio.insecure_channel(fog.listen) as channel,
    ):
        response = await Caller(channel).stub.Infer(request, timeout=1.5)
        assert response.results[0].answer.degraded == pb.DEGRADED_DEADLINE
        assert above.samples[0].time_left_us <= 1_050_000
        request.samples[0].time_left_us = 600_000  # a sample may ask for less
        response = await Caller(channel).stub.Infer(request, timeout=20)
        assert response.results[0].answer.degraded == pb.DEGRADED_DEADLINE
        assert above.samples[1].time_left_us <= 150_000


async def test_a_unary_call_brings_its_trace_in_the_metadata(scores: Path) -> None:
    above = ScriptedTier(lambda _: answer())
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with (
        scripted(above) as address,
        running(Tier.FOG, scores, 1, address) as fog,
        grpc.aio.insecure_channel(fog.listen) as channel,
    ):
        stub = Caller(channel).stub
        own = sample(2, SURE_AT[2], traceparent=b"its own")
        request = pb.Request(names=NAMES, samples=[sample(1, SURE_AT[2]), own])
        await stub.Infer(request, metadata=[("traceparent", trace)])
        seen = {one.id.sequence: one.traceparent for one in above.samples}
        for malformed in ("nonsense", trace.replace("00f067aa0ba902b7", "0" * 16), f"{trace}-x"):
            request = pb.Request(names=NAMES, samples=[sample(3, SURE_AT[2])])
            await stub.Infer(request, metadata=[("traceparent", malformed)])
            assert above.samples[-1].traceparent == b""
    binary = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 01")
    assert seen == {1: binary, 2: b"its own"}


async def test_a_unary_call_may_have_hours(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        one = sample(1, SURE_AT[0])
        one.ClearField("time_left_us")
        request = pb.Request(names=NAMES, samples=[one])
        response = await Caller(channel).stub.Infer(request, timeout=7200)
    assert response.results[0].answer.label == 0


async def test_a_unary_caller_that_gives_up_frees_its_sample(scores: Path) -> None:
    above = ScriptedTier(lambda _: None)
    async with (
        scripted(above) as address,
        running(Tier.FOG, scores, 1, address) as fog,
        grpc.aio.insecure_channel(fog.listen) as channel,
    ):
        call = Caller(channel).stub.Infer(pb.Request(names=NAMES, samples=[sample(1, SURE_AT[2])]))
        await eventually(lambda: above.samples)
        call.cancel()
        await eventually(lambda: fog.engine.in_flight == 0)
        await eventually(lambda: above.cancels)


async def test_a_caller_that_has_said_all_gets_all_its_results_and_the_end(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(*(sample(k, SURE_AT[k % 3]) for k in range(20)))
        await caller.call.done_writing()
        for k in range(20):
            assert (await caller.result(k)).answer.label == k % 3
        with pytest.raises(EOFError):
            await caller.result(20)
        assert await caller.call.code() is grpc.StatusCode.OK


async def test_results_over_the_limit_of_a_message_come_in_several(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, limits={"message_bytes": 2048}) as cloud,
        calling(cloud.listen) as caller,
    ):
        for start in range(0, 100, 20):
            await caller.say(*(sample(start + k, SURE_AT[0]) for k in range(20)))
        for k in range(100):
            assert (await caller.result(k)).answer.label == 0
    assert len(caller.messages) > 1


async def test_bytes_are_those_of_whole_messages(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.DEVICE, scores, 0, cloud.listen) as device,
        calling(device.listen) as caller,
    ):
        for k in range(30):
            (result,) = await caller.ask(sample(k, SURE_AT[k % 3]))
        above, below = scrape(cloud.metrics), scrape(device.metrics)
        legs = [caller.results[k].answer.trail[-1] for k in range(30)]
    for direction in ("up", "down"):
        labels = f'direction="{direction}",side="{{}}stream"'
        sent = below["offramp_wire_bytes_total", labels.format("up")]
        assert sent == above["offramp_wire_bytes_total", labels.format("down")] > 0
    assert sum(leg.bytes_up for leg in legs) == pytest.approx(
        below["offramp_wire_bytes_total", 'direction="up",side="upstream"']
    )
    # 4 bytes of codes; the first message also says the names.
    assert [leg.bytes_up for leg in legs[:3]] == [
        0,
        pytest.approx(210, abs=40),
        pytest.approx(30, abs=8),
    ]
    del result


async def test_bytes_that_are_no_message_end_the_stream_and_nothing_else(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        async with grpc.aio.insecure_channel(cloud.listen) as channel:
            call = channel.stream_stream(f"/{SERVICE}/Stream")(wait_for_ready=True)
            await call.read()
            await call.write(b"\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == "request: its bytes are not a message of this protocol"
        (result,) = await caller.ask(sample(0, SURE_AT[0]))
    assert result.answer.label == 0
