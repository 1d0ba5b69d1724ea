"""What was answered degraded gets its full answer once the link is back, exactly one, and the caller is told so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.serving import toy
from tests.serving.gated import gated_bundle
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, calling, refusal, sample, scripted

from offramp.bundle import load_bundle
from offramp.client import AsyncClient
from offramp.errors import InvalidSettings, TierFailed, TierUnavailable
from offramp.rpc import Answer, Origin, SampleId, TensorBytes, Tier
from offramp.rpc.stored import Stored
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.composition import Parts, compose
from offramp.serving.settings import TierSettings
from offramp.serving.store_file import Entry, StoreFile

NOWHERE = "127.0.0.1:1"
UNSURE = SURE_AT[2]


@asynccontextmanager
async def storing(
    bundle: Path, folder: Path, above: str = NOWHERE, **settings: Any
) -> AsyncIterator[tuple[Parts, AsyncClient]]:
    """A device that keeps what it answers degraded, and a client of it."""
    # However busy the disk is, an answer waits for it.
    store = {"folder": str(folder), "rate": 100.0, "most_wait_s": 5.0, **settings.pop("store", {})}
    connected = above != NOWHERE
    async with (
        running(Tier.DEVICE, bundle, 0, above, connected=connected, store=store, **settings) as it,
        AsyncClient(it.listen) as client,
    ):
        yield it, client


async def collected(client: AsyncClient, **which: Any) -> list[Stored]:
    return [stored async for stored in client.results(**which)]


def totals(device: Parts) -> tuple[int, int, int]:
    assert device.store is not None
    found = device.store.file.totals
    return found.waiting, found.answered, found.failed


def test_there_is_no_store_without_an_uplink(scores: Path, tmp_path: Path) -> None:
    settings = TierSettings.model_validate(
        {
            "bundle": scores,
            "listen": "127.0.0.1:0",
            "metrics": "127.0.0.1:0",
            "plan": {},
            "store": {"folder": str(tmp_path)},
        }
    )
    with pytest.raises(InvalidSettings, match="no uplink") as caught:
        compose(Tier.DEVICE, settings)
    assert caught.value.field == "store.folder"


async def test_what_is_degraded_by_the_link_is_kept_and_nothing_else(
    scores: Path, tmp_path: Path
) -> None:
    async with storing(scores, tmp_path) as (device, client):
        kept = await client.infer(UNSURE)
        sure, local = [
            await client.infer(image, local=local)
            for image, local in ((SURE_AT[0], False), (UNSURE, True))
        ]
        (waiting,) = await collected(client, waiting=True, inputs=True)
        counted = scrape(device.metrics)
    assert (kept.degraded, kept.stored) == ("unreachable", True)
    assert (sure.degraded, sure.stored, sure.id) == (None, False, None)
    assert (local.degraded, local.stored, local.id) == ("policy", False, None)
    assert (waiting.id, waiting.full, waiting.cursor) == (kept.id, None, 0)
    assert (waiting.degraded.label, waiting.degraded.degraded) == (kept.label, "unreachable")
    assert waiting.payload == (TensorBytes(UNSURE.tobytes(), "uint8", (4, 4, 1)),)
    assert counted["offramp_store_puts_total", 'put="stored"'] == 1
    assert counted["offramp_store_samples", 'held="waiting"'] == 1
    assert counted["offramp_store_bytes", ""] > 0


async def test_only_the_reasons_that_were_set_are_kept(scores: Path, tmp_path: Path) -> None:
    async with storing(scores, tmp_path, store={"reasons": "overloaded, mismatch"}) as (_, client):
        given = await client.infer(UNSURE)
    assert (given.degraded, given.stored) == ("unreachable", False)


async def test_the_full_answer_is_the_one_that_the_network_gives(
    scores: Path, tmp_path: Path
) -> None:
    images = [SURE_AT[1], SURE_AT[2], toy.pixels((1, 0, 0), (0, 0, 1), (0, 2, 0))]
    async with storing(scores, tmp_path) as (_, client):
        first = [await client.infer(image) for image in images]
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        storing(scores, tmp_path, cloud.listen) as (device, client),
    ):
        await eventually(lambda: totals(device) == (0, 3, 0))
        expected = [await client.infer(image) for image in images]
        found = {stored.id: stored for stored in await collected(client)}
        counted = scrape(device.metrics)
    assert len(found) == 3
    for before, undegraded in zip(first, expected, strict=True):
        assert before.id is not None
        stored = found[before.id]
        assert isinstance(stored.full, Answer)
        assert (stored.full.label, stored.full.exit) == (undegraded.label, undegraded.exit)
        assert np.array_equal(stored.full.probabilities, undegraded.probabilities)
        assert (stored.full.degraded, stored.full.stored) == (None, False)
        assert [leg.tier for leg in stored.full.trail] == [Tier.CLOUD, Tier.DEVICE]
    assert counted["offramp_store_resends_total", 'resend="answered"'] == 3
    assert counted["offramp_store_samples", 'held="answered"'] == 3


async def test_an_answer_that_is_degraded_above_is_kept_and_is_no_full_answer(
    scores: Path, tmp_path: Path
) -> None:
    def degraded(_: pb.Sample) -> pb.Answer:
        above = answer(label=1, exit_index=1)
        above.degraded = pb.DEGRADED_UNREACHABLE
        return above

    fog = ScriptedTier(degraded)
    async with (
        scripted(fog) as address,
        storing(scores, tmp_path, address) as (device, client),
    ):
        given = await client.infer(UNSURE)
        assert (given.label, given.degraded, given.stored) == (1, "unreachable", True)
        resends = "offramp_store_resends_total", 'resend="in_vain"'
        await eventually(lambda: scrape(device.metrics)[resends] == 1)
        assert totals(device) == (1, 0, 0)
        fog.script = lambda _: answer()
        await eventually(lambda: totals(device) == (0, 1, 0))
        (stored,) = await collected(client)
    assert isinstance(stored.full, Answer)
    assert (stored.full.label, stored.tries, stored.id) == (2, 1, given.id)
    assert len({one.id.sequence for one in fog.samples}) == 1


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION],
)
async def test_what_the_next_tier_refuses_is_asked_again(
    scores: Path, tmp_path: Path, code: grpc.StatusCode
) -> None:
    script: list[pb.Answer | pb.Status] = [refusal(code), refusal(code), answer()]
    cloud = ScriptedTier(lambda _: script.pop(0))
    settings = {"reasons": "unreachable,overloaded,mismatch"}
    async with (
        scripted(cloud) as address,
        storing(scores, tmp_path, address, store=settings) as (device, client),
    ):
        assert (await client.infer(UNSURE)).stored
        await eventually(lambda: totals(device) == (0, 1, 0))
    assert len(cloud.samples) == 3


async def test_a_sample_outlives_a_change_of_bundle_unless_its_caller_named_the_old_one(
    scores: Path, tmp_path: Path
) -> None:
    other = gated_bundle(tmp_path / "gated")
    old, new = load_bundle(scores).digest, load_bundle(other).digest
    folder = tmp_path / "store"
    async with storing(scores, folder) as (device, client):
        any_network = await client.infer(UNSURE)
        async with AsyncClient(device.listen, network=old) as strict:
            only_old = await strict.infer(UNSURE)
    async with (
        running(Tier.CLOUD, other, 2) as cloud,
        storing(other, folder, cloud.listen) as (device, client),
    ):
        await eventually(lambda: totals(device) == (0, 1, 1))
        found = {stored.id: stored for stored in await collected(client)}
    assert any_network.id is not None
    assert only_old.id is not None
    full = found[any_network.id].full
    assert isinstance(full, Answer)
    assert (full.network, found[any_network.id].degraded.network) == (new, old)
    failed = found[only_old.id].full
    assert str(failed).startswith(f"network: {old} is not held here")


async def test_an_id_that_comes_twice_has_one_full_answer(scores: Path, tmp_path: Path) -> None:
    async with storing(scores, tmp_path) as (device, client), calling(device.listen) as caller:
        for _ in range(2):
            caller.results.clear()
            (result,) = await caller.ask(sample(1, UNSURE))
            assert result.answer.stored
        assert len(await collected(client, waiting=True)) == 1


@pytest.mark.parametrize("request_", [b"\xff\xff", b""])
async def test_what_makes_no_sense_any_more_is_in_nobodys_way(
    scores: Path, tmp_path: Path, request_: bytes
) -> None:
    async with storing(scores, tmp_path) as (_, client):
        sound = await client.infer(UNSURE)
    file = StoreFile(tmp_path, 2**20)
    damaged = Entry(SampleId(Origin("camera", 1), 1), request_, b"\xff", b"\xff", -10.0)
    file.put([damaged, damaged._replace(id=SampleId(Origin("camera", 1), 2))])
    file.finish(3, b"\xff")
    file.close()
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        storing(scores, tmp_path, cloud.listen) as (device, client),
    ):
        await eventually(lambda: totals(device) == (0, 2, 0))
        assert [stored.id for stored in await collected(client, waiting=True)] == [sound.id]


async def test_what_waits_in_vain_for_the_next_tier_has_time_left_for_the_disk(
    scores: Path, tmp_path: Path
) -> None:
    silent = ScriptedTier(lambda _: None)
    async with (
        scripted(silent) as above,
        storing(scores, tmp_path, above, store={"most_wait_s": 0.3}) as (_, client),
    ):
        given = await client.infer(UNSURE, deadline_s=2.0)
        hurried = await client.infer(
            UNSURE, deadline_s=0.8
        )  # of which a quarter at most is for the disk
    assert (given.degraded, given.stored) == ("deadline", True)
    assert 1.0 < given.trail[0].hop_s < 2.0 - 0.3
    assert (hurried.degraded, hurried.stored) == ("deadline", True)
    assert 0.3 < hurried.trail[0].hop_s < 0.8 - 0.2


async def test_a_full_store_refuses_what_is_new(scores: Path, tmp_path: Path) -> None:
    async with storing(scores, tmp_path, store={"most_bytes": 2**16}) as (device, client):
        given = [timed.outcome async for timed in client.infer_many([UNSURE] * 200, in_flight=16)]
        kept = {one.id for one in given if isinstance(one, Answer) and one.stored}
        waiting = await collected(client, waiting=True)
        counted = scrape(device.metrics)
    assert len(given) == 200
    assert all(isinstance(one, Answer) for one in given)
    assert 0 < len(kept) < 200
    assert kept == {stored.id for stored in waiting}
    assert counted["offramp_store_puts_total", 'put="full"'] == 200 - len(kept)
    assert counted["offramp_store_bytes", ""] <= 2**16


async def test_a_clean_stop_keeps_all_and_a_start_goes_on(scores: Path, tmp_path: Path) -> None:
    async with storing(scores, tmp_path) as (_, client):
        asked = [asyncio.create_task(client.infer(UNSURE)) for _ in range(40)]
        ids = {(await one).id for one in asked}
    async with storing(scores, tmp_path) as (device, client):
        assert {stored.id for stored in await collected(client, waiting=True)} == ids
        assert totals(device) == (40, 0, 0)


async def test_results_that_nobody_releases_end_with_their_time(
    scores: Path, tmp_path: Path
) -> None:
    async with storing(scores, tmp_path, store={"keep_s": 0.3}) as (device, client):
        await client.infer(UNSURE)
        async with aclosing(client.results(follow=True)) as following:
            failed = await anext(following)
        await eventually(lambda: totals(device) == (0, 0, 0))
        counted = scrape(device.metrics)
    assert str(failed.full) == "no full answer came within 0.3 s"
    assert counted["offramp_store_drops_total", 'drop="expired"'] == 1


async def test_what_can_wait_leaves_half_of_the_next_tier_to_callers(scores: Path) -> None:
    cloud = ScriptedTier(lambda _: None, credits_=4)
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        asked = []
        for is_at_ease in (True, True, False):
            asked.append(asyncio.create_task(client.infer(UNSURE, deadline_s=30.0)))
            await eventually(lambda: len(cloud.samples) == len(asked))
            assert device.uplink.is_at_ease is is_at_ease
        for one in cloud.samples:
            cloud.answer(one)
        assert [(await one).label for one in asked] == [2, 2, 2]
        assert device.uplink.is_at_ease
    async with running(Tier.DEVICE, scores, 0, NOWHERE, connected=False) as device:
        assert not device.uplink.is_at_ease


# --- reading ------------------------------------------------------------------------------------


async def test_a_reader_goes_on_from_its_cursor_and_follows(scores: Path, tmp_path: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    async with storing(scores, tmp_path) as (_, client):
        assert (await client.infer(UNSURE)).stored
    async with (
        scripted(cloud) as address,
        storing(scores, tmp_path, address) as (device, client),
    ):
        seen: asyncio.Queue[Stored] = asyncio.Queue()

        async def watch() -> None:
            async for stored in client.results(follow=True):
                seen.put_nowait(stored)

        watching = asyncio.create_task(watch())
        first = await seen.get()
        cloud.script = lambda _: refusal(grpc.StatusCode.UNAVAILABLE)
        second_id = (await client.infer(UNSURE)).id
        cloud.script = lambda _: answer()
        second = await seen.get()
        watching.cancel()
        await asyncio.wait([watching])
        assert (first.cursor, second.cursor, second.id) == (1, 2, second_id)
        assert [s.cursor for s in await collected(client, after=1)] == [2]
        assert await client.release(1) == 1
        assert [s.cursor for s in await collected(client)] == [2]
        assert await client.release(2**64 - 1) == 1
        assert await collected(client, after=2**64 - 1) == []
        assert totals(device) == (0, 0, 0)


@pytest.mark.parametrize("ends", ["device", "client"])
async def test_a_reader_that_follows_hears_that_the_other_side_has_ended(
    scores: Path, tmp_path: Path, ends: str
) -> None:
    async with AsyncExitStack() as device_stack, AsyncExitStack() as client_stack:
        device, _ = await device_stack.enter_async_context(storing(scores, tmp_path))
        client = await client_stack.enter_async_context(AsyncClient(device.listen))
        await client.infer(UNSURE)
        following = client.results(follow=True, waiting=True)
        assert (await anext(following)).cursor == 0
        more = asyncio.create_task(anext(following))
        await (device_stack if ends == "device" else client_stack).aclose()
        with pytest.raises(TierUnavailable):
            await more


async def test_a_tier_that_keeps_nothing_says_so(scores: Path) -> None:
    text = "this tier keeps no results: it has no setting store.folder"
    async with running(Tier.CLOUD, scores, 2) as cloud, AsyncClient(cloud.listen) as client:
        asking: list[Callable[[], Any]] = [lambda: collected(client), lambda: client.release(1)]
        for ask in asking:
            with pytest.raises(TierFailed, match=text):
                await ask()


# --- callers that nobody wants ------------------------------------------------------------------


async def test_bytes_that_are_no_message_are_refused_by_what_reads_and_drops(
    scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        storing(scores, tmp_path) as (device, _),
        grpc.aio.insecure_channel(device.listen) as channel,
    ):
        asking = {
            "Results": lambda: channel.unary_stream("/offramp.rpc.v1.Tier/Results")(b"\xff").read(),
            "Release": lambda: channel.unary_unary("/offramp.rpc.v1.Tier/Release")(b"\xff"),
        }
        for ask in asking.values():
            with pytest.raises(grpc.aio.AioRpcError, match="request: its bytes are not") as caught:
                await ask()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caplog.text


async def test_who_follows_results_counts_among_the_calls_of_its_side(
    scores: Path, tmp_path: Path
) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    async with (
        storing(scores, tmp_path, limits={"streams_per_peer": 2}) as (device, client),
        grpc.aio.insecure_channel(device.listen, own) as channel,
    ):
        read = channel.unary_stream("/offramp.rpc.v1.Tier/Results")
        await client.infer(UNSURE)
        async with aclosing(client.results(waiting=True, follow=True)) as following:
            await anext(following)
            with pytest.raises(grpc.aio.AioRpcError, match="2 calls from your side") as caught:
                await read(b"").read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(100):
            with contextlib.suppress(grpc.aio.AioRpcError):  # it takes a moment to leave
                assert await read(b"").read() is grpc.aio.EOF
                return
            await asyncio.sleep(0.02)
        pytest.fail("whoever has left still counts")
