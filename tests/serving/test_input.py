"""Whatever is wrong with a sample is said by name and status, and the next one is answered as ever."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serving.tiers import running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import NAMES, Caller, calling, sample, tensors

from offramp.client import AsyncClient
from offramp.errors import InvalidInput
from offramp.rpc import EncodedImage, StreamOptions, Tier
from offramp.rpc.v1 import tier_pb2 as pb

SCORES, FLAGS = np.float32([0, 0, 9]).tobytes(), bytes(4)


def encoded(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", size).save(file, kind)
    return file.getvalue()


def image(data: bytes, media_type: str = "image/png") -> pb.Payload:
    return pb.Payload(image=pb.Image(data=data, media_type=media_type))


PNG = encoded((4, 4), "PNG")
SIXTEEN = bytes(16)

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no payload": ({}, "INVALID_ARGUMENT", "payload"),
    "an empty form": ({"payload": pb.Payload()}, "INVALID_ARGUMENT", "payload"),
    "truncated PNG": ({"payload": image(PNG[:-20])}, "INVALID_ARGUMENT", "payload.image"),
    "PNG with one flipped byte": (
        {"payload": image(PNG[:45] + bytes([PNG[45] ^ 1]) + PNG[46:])},
        "INVALID_ARGUMENT",
        "payload.image",
    ),
    "PNG of another size": (
        {"payload": image(encoded((5, 4), "PNG"))},
        "INVALID_ARGUMENT",
        "payload.image",
    ),
    "JPEG called PNG": (
        {"payload": image(encoded((4, 4), "JPEG"))},
        "INVALID_ARGUMENT",
        "payload.image",
    ),
    "unknown media type": (
        {"payload": image(PNG, "image/bmp")},
        "INVALID_ARGUMENT",
        "payload.image.media_type",
    ),
    "no image at all": ({"payload": image(b"")}, "INVALID_ARGUMENT", "payload.image"),
    "image at boundary 1": (
        {"payload": image(PNG), "boundary": 1},
        "INVALID_ARGUMENT",
        "payload.image",
    ),
    "wrong shape": (
        {"payload": tensors(SIXTEEN, shape=[2, 8, 1])},
        "INVALID_ARGUMENT",
        "payload.tensors[0].shape",
    ),
    "wrong dtype": (
        {"payload": tensors(SIXTEEN, dtype="int8")},
        "INVALID_ARGUMENT",
        "payload.tensors[0].dtype",
    ),
    "too few bytes": (
        {"payload": tensors(bytes(15))},
        "INVALID_ARGUMENT",
        "payload.tensors[0].data",
    ),
    "too many bytes": (
        {"payload": tensors(bytes(17))},
        "INVALID_ARGUMENT",
        "payload.tensors[0].data",
    ),
    "no tensor": ({"payload": tensors()}, "INVALID_ARGUMENT", "payload.tensors"),
    "two tensors for one": (
        {"payload": tensors(SIXTEEN, SIXTEEN)},
        "INVALID_ARGUMENT",
        "payload.tensors",
    ),
    "one tensor for two": (
        {"payload": tensors(SCORES), "boundary": 2},
        "INVALID_ARGUMENT",
        "payload.tensors",
    ),
    "second tensor too short": (
        {"payload": tensors(SCORES, bytes(3)), "boundary": 2},
        "INVALID_ARGUMENT",
        "payload.tensors[1].data",
    ),
    "padding bits that are set": (
        {"payload": tensors(b"\0\0\0\x01"), "boundary": 1},
        "INVALID_ARGUMENT",
        "payload.tensors[0].data",
    ),
    "NaN": (
        {"payload": tensors(np.float32([0, np.nan, 0]).tobytes(), FLAGS), "boundary": 2},
        "INVALID_ARGUMENT",
        "payload.tensors[0].data",
    ),
    "infinity": (
        {"payload": tensors(np.float32([np.inf, 0, 0]).tobytes(), FLAGS), "boundary": 2},
        "INVALID_ARGUMENT",
        "payload.tensors[0].data",
    ),
    "boundary out of range": (
        {"payload": tensors(SIXTEEN), "boundary": 3},
        "INVALID_ARGUMENT",
        "boundary",
    ),
    "exit state that no rule declares": (
        {"payload": tensors(SIXTEEN), "exit_state": b"x"},
        "INVALID_ARGUMENT",
        "exit_state",
    ),
    "traceparent of no version": (
        {"payload": tensors(SIXTEEN), "traceparent": bytes(65)},
        "INVALID_ARGUMENT",
        "traceparent",
    ),
    "unknown network": (
        {"payload": tensors(SIXTEEN), "network": 1},
        "FAILED_PRECONDITION",
        "network",
    ),
    "unknown policy": ({"payload": tensors(SIXTEEN), "policy": 1}, "FAILED_PRECONDITION", "policy"),
    "network that was not named": (
        {"payload": tensors(SIXTEEN), "network": 7},
        "INVALID_ARGUMENT",
        "network",
    ),
    "policy that was not named": (
        {"payload": tensors(SIXTEEN), "policy": 7},
        "INVALID_ARGUMENT",
        "policy",
    ),
    "origin that was not named": (
        {"payload": tensors(SIXTEEN), "id": pb.SampleId(origin=7, sequence=1)},
        "INVALID_ARGUMENT",
        "id.origin",
    ),
}
MORE_NAMES = (pb.Name(number=1, network="0" * 64), pb.Name(number=1, policy="1" * 64))


@pytest.mark.parametrize("mistake", WRONG)
async def test_each_mistake_is_named_and_the_stream_goes_on(scores: Path, mistake: str) -> None:
    fields, code, field = WRONG[mistake]
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(names=MORE_NAMES)
        wrong = sample(1)
        wrong.MergeFrom(pb.Sample(**fields))
        _, right = await caller.ask(wrong, sample(2, SURE_AT[1]))
        assert await caller.status(1) == (code, field)
        assert right.answer.label == 1
        (after,) = await caller.ask(sample(3, SURE_AT[0]))
        assert after.answer.label == 0
        outcome = "mismatch" if code == "FAILED_PRECONDITION" else "invalid"
        assert scrape(cloud.metrics)["offramp_requests_total", f'outcome="{outcome}"'] == 1


@pytest.mark.parametrize("mistake", ["truncated PNG", "unknown network", "NaN"])
async def test_a_unary_call_of_one_sample_fails_with_its_status(scores: Path, mistake: str) -> None:
    fields, code, field = WRONG[mistake]
    wrong = sample(1)
    wrong.MergeFrom(pb.Sample(**fields))
    names = NAMES + MORE_NAMES
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        stub = Caller(channel).stub
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Infer(pb.Request(names=names, samples=[wrong]))
        after = await stub.Infer(pb.Request(names=names, samples=[sample(2, SURE_AT[1])]))
    assert failure.value.code().name == code
    assert failure.value.details().startswith(f"{field}: ")
    assert after.results[0].answer.label == 1


async def test_bytes_that_are_no_message_are_refused_on_a_unary_call(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        infer = channel.unary_unary("/offramp.rpc.v1.Tier/Infer")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await infer(b"\xff" * 64, timeout=10)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(failure.value.details()).startswith("request: ")


async def test_a_message_that_is_large_once_decompressed_is_refused(scores: Path) -> None:
    bomb = pb.Request(samples=[sample(1, payload=image(bytes(2**26)))])
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        grpc.aio.insecure_channel(cloud.listen, compression=grpc.Compression.Gzip) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await Caller(channel).stub.Infer(bomb, timeout=20)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_network_that_is_not_held_is_told_those_that_are(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(names=MORE_NAMES)
        (result,) = await caller.ask(sample(1, SURE_AT[0], network=1))
    assert "0" * 64 in result.status.message
    assert f"scores ({cloud.engine.held.bundle.digest})" in result.status.message


async def test_an_id_that_is_under_way_is_refused(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(sample(1, SURE_AT[0]), sample(1, SURE_AT[1]), sample(2, SURE_AT[2]))
        response = await caller.call.read()
        statuses = [r.status.field for r in response.results if r.HasField("status")]
        assert statuses == ["id.sequence"]
        assert (await caller.result(2)).answer.label == 2
        (again,) = await caller.ask(sample(3, SURE_AT[1]))
        assert again.answer.label == 1


async def test_a_sample_cancelled_in_its_own_message_leaves_nothing_behind(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(sample(1, SURE_AT[0]), cancels=[pb.SampleId(sequence=1)])
        (after,) = await caller.ask(sample(2, SURE_AT[1]))
        assert after.answer.label == 1
        (again,) = await caller.ask(sample(1, SURE_AT[2]))  # the id is free
        assert again.answer.label == 2
        once = pb.Request(names=NAMES, samples=[sample(9, SURE_AT[0])])
        once.cancels.add(sequence=9)
        assert len((await caller.stub.Infer(once, timeout=10)).results) == 0


async def test_a_cancel_of_nothing_is_nothing(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(cancels=[pb.SampleId(sequence=5), pb.SampleId(origin=9, sequence=5)])
        (after,) = await caller.ask(sample(1, SURE_AT[1]))
    assert after.answer.label == 1


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (pb.Name(origin=pb.Origin(device="d" * 257)), "names.origin.device"),
        (pb.Name(network="n" * 129), "names.network"),
        (pb.Name(policy="é" * 65), "names.policy"),
    ],
)
async def test_a_name_too_long_ends_the_stream_by_its_field(
    scores: Path, name: pb.Name, field: str
) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(names=[name])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await caller.result(1)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in failure.value.details()


async def test_names_without_sense_end_the_stream_once_what_was_accepted_is_answered(
    scores: Path,
) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(sample(1, SURE_AT[1]))
        await caller.say(names=[pb.Name(number=3)])
        assert (await caller.result(1)).answer.label == 1
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await caller.result(2)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "names.kind" in failure.value.details()


async def test_a_raw_network_takes_numbers_and_neither_nan_nor_images(raw: Path) -> None:
    def x(*values: float) -> pb.Payload:
        return tensors(np.float32(values).tobytes())

    async with running(Tier.CLOUD, raw, 1) as cloud, calling(cloud.listen) as caller:
        right, *_ = await caller.ask(
            sample(1, payload=x(0, 4, 0)),
            sample(2, payload=x(0, np.nan, 0)),
            sample(3, payload=image(encoded((3, 1), "PNG"))),
            sample(4, payload=x(0, 1e30, 0)),  # its square is no float32
            sample(5, payload=x(1, 0.5, 0.9)),
        )
        assert (right.answer.label, right.answer.exit) == (1, 0)
        assert await caller.status(2) == ("INVALID_ARGUMENT", "payload.tensors[0].data")
        assert await caller.status(3) == ("INVALID_ARGUMENT", "payload.image")
        assert await caller.status(4) == ("INVALID_ARGUMENT", "payload")
        assert ((await caller.result(5)).answer.label, caller.results[5].answer.exit) == (0, 1)


async def test_a_payload_over_the_tiers_limit_is_refused_before_it_is_sent(scores: Path) -> None:
    limits = {"message_bytes": 4096}
    large = EncodedImage(bytes(10_000), "image/png")
    async with running(Tier.CLOUD, scores, 2, limits=limits) as cloud:
        async with AsyncClient(cloud.listen) as client:
            first, second, third = await asyncio.gather(
                client.infer(SURE_AT[0]),
                client.infer(large),
                client.infer(SURE_AT[1]),
                return_exceptions=True,
            )
            assert isinstance(second, InvalidInput)
            assert second.field == "payload"
            assert [first.label, third.label] == [0, 1]  # type: ignore[union-attr]
        options = StreamOptions(message_bytes=2048)  # this side's own limit is the smaller one
        async with AsyncClient(cloud.listen, options=options) as client:
            with pytest.raises(InvalidInput, match="over the limit of 1024"):
                await client.infer(EncodedImage(bytes(2000), "image/png"))
            assert (await client.infer(SURE_AT[1])).label == 1


async def test_a_message_over_the_tiers_limit_ends_the_stream_and_no_more(scores: Path) -> None:
    limits = {"message_bytes": 4096}
    async with running(Tier.CLOUD, scores, 2, limits=limits) as cloud:
        async with calling(cloud.listen) as caller:  # one that ignores what the tier told it
            await caller.say(sample(1, payload=image(bytes(10_000))))
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await caller.result(1)
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with grpc.aio.insecure_channel(cloud.listen) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await Caller(channel).stub.Infer(
                    pb.Request(samples=[sample(1, payload=image(bytes(10_000)))])
                )
        assert unary.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with calling(cloud.listen) as caller:
            (after,) = await caller.ask(sample(1, SURE_AT[1]))
            assert after.answer.label == 1
