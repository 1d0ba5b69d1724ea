"""The caller's side of a stream, against a tier that says whatever a test wants."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.serving import wire
from tests.serving.tiers import eventually
from tests.serving.wire import ScriptedTier, answer, scripted

from offramp.errors import DeadlineExceeded, InvalidInput, TierUnavailable
from offramp.rpc import Origin, Sample, SampleId, StreamOptions, TensorBytes, TierStream
from offramp.rpc.names import MOST_NAMES
from offramp.rpc.v1 import tier_pb2 as pb

NUMBERS = itertools.count()
CALLER = Origin("caller", 1)


def one(size: int = 4, sequence: int | None = None, origin: Origin = CALLER) -> Sample:
    return Sample(
        id=SampleId(origin, next(NUMBERS) if sequence is None else sequence),
        boundary=0,
        network="",
        policy="",
        deadline=0.0,
        payload=(TensorBytes(bytes(size)),),
    )


@asynccontextmanager
async def streaming(
    tier: ScriptedTier, options: StreamOptions | None = None, **more: Any
) -> AsyncIterator[TierStream]:
    async with scripted(tier) as address, wire.streaming(address, options, **more) as stream:
        yield stream


def asking(stream: TierStream, sample: Sample, seconds: float = 20.0) -> asyncio.Task[Any]:
    return asyncio.create_task(stream.ask(sample, time.monotonic() + seconds))


async def test_replies_are_tied_by_id_in_whatever_order_they_come() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        first, second = asking(stream, one()), asking(stream, one())
        await eventually(lambda: len(tier.samples) == 2)
        early, late = tier.samples
        tier.say(pb.Result(id=late.id, final=True, answer=answer(1)))
        tier.say(pb.Result(id=early.id, final=True, answer=answer(0)))
        assert ((await first).answer.label, (await second).answer.label) == (0, 1)


async def test_an_answer_that_is_not_final_is_waited_past() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        asked = asking(stream, one())
        await eventually(lambda: tier.samples)
        tier.say(pb.Result(id=tier.samples[0].id, final=False, answer=answer(0)))
        tier.say(pb.Result(id=tier.samples[0].id, final=True, answer=answer(1)))
        assert (await asked).answer.label == 1


async def test_results_of_unknown_samples_and_second_results_are_ignored() -> None:
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier) as stream:
        await asking(stream, one())
        tier.answer(tier.samples[0])
        tier.say(pb.Result(id=pb.SampleId(sequence=987_654), final=True, answer=answer()))
        assert (await asking(stream, one())).answer.label == 2
    assert tier.streams == 1


async def test_a_result_after_the_sample_was_given_up_is_ignored_and_its_cancel_was_sent() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        with pytest.raises(DeadlineExceeded):
            await asking(stream, one(), 0.05)
        await eventually(lambda: tier.cancels)
        assert tier.cancels == [tier.samples[0].id.sequence]
        tier.answer(tier.samples[0])
        after = asking(stream, one())
        await eventually(lambda: len(tier.samples) == 2)
        tier.answer(tier.samples[1])
        assert (await after).answer.label == 2
    assert len(tier.cancels) == 1


async def test_what_waits_goes_in_one_message_and_names_once() -> None:
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier) as stream:
        await asyncio.gather(*(asking(stream, one()) for _ in range(10)))
        await asking(stream, one())
    assert [len(request.samples) for request in tier.requests] == [10, 1]
    assert [len(request.names) for request in tier.requests] == [3, 0]


async def test_no_message_is_over_the_limit() -> None:
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier, StreamOptions(message_bytes=4096)) as stream:
        replies = await asyncio.gather(*(asking(stream, one(1000)) for _ in range(10)))
        with pytest.raises(InvalidInput, match="payload: 4000 bytes"):
            await asking(stream, one(4000))
    assert len(replies) == 10
    assert [len(request.samples) for request in tier.requests] == [
        3,
        4,
        3,
    ]  # the first has the names
    assert max(request.ByteSize() for request in tier.requests) <= 4096


async def test_names_count_towards_the_limit_of_a_message() -> None:
    tier = ScriptedTier(lambda _: answer(), credits_=50)
    origins = [Origin("d" * 256, run) for run in range(40)]
    async with streaming(tier, StreamOptions(message_bytes=4096)) as stream:
        await asyncio.gather(*(asking(stream, one(origin=origin)) for origin in origins))
    assert len(tier.samples) == 40
    assert 3500 < max(request.ByteSize() for request in tier.requests) <= 4096


async def test_the_smaller_of_both_limits_counts() -> None:
    tier = ScriptedTier(lambda _: answer(), message_bytes=4096)
    async with streaming(tier) as stream:
        with pytest.raises(InvalidInput, match="payload: 4000 bytes, over the limit of 3072"):
            await asking(stream, one(4000))
        await asyncio.gather(*(asking(stream, one(1000)) for _ in range(10)))
    assert tier.streams == 1
    assert max(request.ByteSize() for request in tier.requests) <= 4096


async def test_a_stream_whose_names_are_used_up_goes_on_as_another_and_loses_nothing() -> None:
    tier = ScriptedTier(lambda _: answer(), credits_=10_000)
    origins = [Origin("caller", run) for run in range(MOST_NAMES + 10)]
    async with streaming(tier) as stream:
        replies = await asyncio.gather(*(asking(stream, one(origin=o)) for o in origins))
        assert (await asking(stream, one())).answer.label == 2
    assert len(replies) == len(tier.samples) - 1 == MOST_NAMES + 10
    assert tier.streams == 2


async def test_names_that_no_peer_takes_are_refused_here() -> None:
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier) as stream:
        with pytest.raises(InvalidInput, match=r"id\.origin\.device: 257 bytes"):
            await asking(stream, one(origin=Origin("d" * 257, 1)))
        assert (await asking(stream, one())).answer.label == 2
    assert tier.streams == 1


async def test_a_sample_that_was_sent_in_vain_tells_its_bytes() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        with pytest.raises(DeadlineExceeded) as late:
            await asking(stream, one(), 0.1)
        lost = asking(stream, one())
        await eventually(lambda: len(tier.samples) == 2)
        tier.hang_up()
        with pytest.raises(TierUnavailable) as broken:
            await lost
        await stream.wait_connected(20)
        with pytest.raises(DeadlineExceeded) as never:
            await asking(stream, one(), -1.0)
    assert late.value.bytes_up == tier.requests[0].ByteSize() + 5
    assert broken.value.bytes_up > 0
    assert never.value.bytes_up == 0


async def test_a_tier_that_comes_back_after_a_while_is_found_within_the_backoff() -> None:
    tier = ScriptedTier(lambda _: answer())
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    stream = TierStream(f"127.0.0.1:{port}", StreamOptions(most_backoff_s=0.5))
    stream.start()
    with pytest.raises(TierUnavailable):
        await stream.wait_connected(3.0)  # gRPC's own backoff would be near 4 s by now
    async with scripted(tier, port):
        began = time.monotonic()
        await stream.wait_connected(20)
        assert time.monotonic() - began < 0.5 + 1.0  # and a second for a busy machine
        await stream.close()


async def test_bytes_are_shared_by_the_samples_of_a_message() -> None:
    counted: list[tuple[str, int]] = []
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier, count_bytes=lambda *count: counted.append(count)) as stream:
        replies = await asyncio.gather(*(asking(stream, one()) for _ in range(4)))
        up = [count for direction, count in counted if direction == "up"]
    assert up == [tier.requests[0].ByteSize() + 5]
    assert [reply.bytes_up for reply in replies] == [up[0] / 4] * 4


async def test_credits_used_up_refuse_at_once_and_come_back() -> None:
    tier = ScriptedTier(lambda _: None, credits_=2)
    async with streaming(tier) as stream:
        under_way = [asking(stream, one()) for _ in range(2)]
        await eventually(lambda: len(tier.samples) == 2)
        with pytest.raises(TierUnavailable, match="credits") as refusal:
            await asking(stream, one())
        assert refusal.value.reason == "overloaded"
        tier.answer(tier.samples[0])
        await under_way[0]
        last = asking(stream, one())
        await eventually(lambda: len(tier.samples) == 3)
        for sample in tier.samples[1:]:
            tier.answer(sample)
        await asyncio.gather(under_way[1], last)


async def test_an_id_that_is_under_way_is_refused() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        first = asking(stream, one(sequence=10**9))
        await eventually(lambda: tier.samples)
        with pytest.raises(InvalidInput, match="already under way"):
            await asking(stream, one(sequence=10**9))
        tier.answer(tier.samples[0])
        await first


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda tier: tier.say(pb.Result(id=pb.SampleId(origin=99), final=True, answer=answer())),
        lambda tier: tier.to_say.put_nowait(pb.Response(names=[pb.Name(number=1)])),
        lambda tier: tier.hang_up(),
    ],
    ids=["an origin nobody said", "a name of no kind", "the end"],
)
async def test_a_stream_that_breaks_fails_what_is_under_way_and_is_opened_anew(
    nonsense: Callable[[ScriptedTier], None],
) -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        lost = asking(stream, one())
        await eventually(lambda: tier.samples)
        nonsense(tier)
        with pytest.raises(TierUnavailable) as failure:
            await lost
        assert failure.value.reason == "unreachable"
        tier.script = lambda _: answer()
        await stream.wait_connected(20)
        assert (await asking(stream, one())).answer.label == 2
    assert tier.streams == 2


async def test_an_answer_without_sense_is_a_mismatch_of_that_sample_alone() -> None:
    tier = ScriptedTier(lambda _: pb.Answer(label=1, tier=pb.TIER_NAME_UNSPECIFIED))
    async with streaming(tier) as stream:
        with pytest.raises(TierUnavailable) as failure:
            await asking(stream, one())
        tier.script = lambda _: answer()
        await asking(stream, one())
    assert failure.value.reason == "mismatch"
    assert tier.streams == 1


async def test_the_wait_between_tries_grows_up_to_a_bound() -> None:
    tier = ScriptedTier(lambda _: None)
    tier.is_open = False
    async with scripted(tier) as address:
        stream = TierStream(address, StreamOptions(first_backoff_s=0.02, most_backoff_s=0.08))
        stream.start()
        await eventually(lambda: tier.streams == 6)
        tier.is_open = True
        await stream.wait_connected(20)
        await stream.close()
    waits = [after - before for before, after in itertools.pairwise(tier.opened)]
    assert all(w > 0.8 * b for w, b in zip(waits, (0.02, 0.04, 0.08, 0.08, 0.08), strict=False))


async def test_time_without_end_is_no_error() -> None:
    tier = ScriptedTier(lambda _: answer())
    async with streaming(tier) as stream:
        assert (await asking(stream, one(), math.inf)).answer.label == 2
    assert tier.samples[0].time_left_us == 0xFFFFFFFF


async def test_closing_fails_what_is_under_way_and_who_waits_for_a_connection() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        under_way = asking(stream, one())
        await eventually(lambda: tier.samples)
        await stream.close()
        with pytest.raises(TierUnavailable):
            await under_way
    stream = TierStream("127.0.0.1:1")
    stream.start()
    waiting = asyncio.create_task(stream.wait_connected(1000))
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(TierUnavailable):
        await waiting


async def test_closing_is_not_held_up_by_a_cancellation() -> None:
    tier = ScriptedTier(lambda _: None)
    async with streaming(tier) as stream:
        closing = asyncio.create_task(stream.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
