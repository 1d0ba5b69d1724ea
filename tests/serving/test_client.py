"""The client, blocking and not: the same answers, errors of the one tree, and an end that does not hang."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serving.tiers import Program, clean_environment, eventually, running
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, scripted

from offramp.client import AsyncClient, Client
from offramp.errors import BundleMismatch, DeadlineExceeded, InvalidInput, TierUnavailable
from offramp.rpc import Answer, EncodedImage, Tier
from offramp.rpc.v1 import tier_pb2 as pb

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def cloud(scores: Path) -> Iterator[Program]:
    program = Program("cloud", scores)
    yield program
    program.kill()


def test_a_few_lines_of_python_are_enough(cloud: Program, tmp_path: Path) -> None:
    file = tmp_path / "fox.png"
    Image.fromarray(SURE_AT[1][..., 0]).save(file)
    with Client(cloud.listen) as client:
        assert client.describe().networks[0].name == "scores"
        from_pixels = client.infer(SURE_AT[1])
        from_file = client.infer(file)
        from_bytes = client.infer(EncodedImage(file.read_bytes(), "image/png"))
    assert [a.label for a in (from_pixels, from_file, from_bytes)] == [1, 1, 1]
    assert from_pixels.confidence == from_file.confidence == from_bytes.confidence


def test_a_path_may_be_text_and_anything_else_is_refused(cloud: Program, tmp_path: Path) -> None:
    file = tmp_path / "fox.png"
    Image.fromarray(SURE_AT[1][..., 0]).save(file)
    wrong: list[Any] = [b"bytes", None, [[1]], np.array(["a"]), np.array([None]), "a\0.png"]
    with Client(cloud.listen) as client:
        assert client.infer(str(file)).label == 1
        for image in wrong:
            with pytest.raises(InvalidInput, match=r"no array of numbers|is no path"):
                client.infer(image)


async def test_reading_a_file_is_within_the_deadline_and_off_the_loop(tmp_path: Path) -> None:
    pipe = tmp_path / "slow.png"
    os.mkfifo(pipe)
    async with AsyncClient(NOWHERE) as client:
        with pytest.raises(DeadlineExceeded, match=r"was not read within 0\.2 s"):
            await client.infer(pipe, deadline_s=0.2)
    pipe.open("wb").close()  # lets go of the thread that reads


async def test_more_in_flight_than_credits_wait_for_room() -> None:
    tier = ScriptedTier(lambda _: answer(), credits_=2)
    async with scripted(tier) as address, AsyncClient(address) as client:
        images = [SURE_AT[0]] * 40
        outcomes = [t.outcome async for t in client.infer_many(images, in_flight=8)]
    assert [type(outcome) for outcome in outcomes] == [Answer] * 40


async def test_no_room_within_the_deadline_is_overloaded() -> None:
    tier = ScriptedTier(lambda _: None, credits_=1)
    async with scripted(tier) as address, AsyncClient(address) as client:
        first = asyncio.create_task(client.infer(SURE_AT[0]))
        await eventually(lambda: tier.samples)
        with pytest.raises(TierUnavailable, match="no room") as failure:
            await client.infer(SURE_AT[0], deadline_s=0.1)
        tier.answer(tier.samples[0])
        await first
    assert failure.value.reason == "overloaded"


def test_a_policy_that_is_not_held_names_those_that_are(cloud: Program) -> None:
    with Client(cloud.listen, policy="bold") as client:
        held = [f"{p.name} ({p.id})" for p in client.describe().networks[0].policies]
        with pytest.raises(BundleMismatch) as failure:
            client.infer(SURE_AT[0])
    assert failure.value.field == "policy"
    assert str(failure.value) == f"policy: bold is not held here; held: {', '.join(held)}"


async def test_the_blocking_client_and_the_other_agree(cloud: Program) -> None:
    async with AsyncClient(cloud.listen) as client:
        awaited = [await client.infer(image) for image in SURE_AT]
    with Client(cloud.listen) as blocking:
        for image, other in zip(SURE_AT, awaited, strict=True):
            answer = blocking.infer(image)
            assert (answer.label, answer.exit) == (other.label, other.exit)
            np.testing.assert_array_equal(answer.probabilities, other.probabilities)


def test_many_in_a_closed_loop_yield_every_index_once(cloud: Program) -> None:
    images = [SURE_AT[k % 3] for k in range(100)]
    with Client(cloud.listen) as client:
        outcomes = list(client.infer_many(iter(images), in_flight=8))
    assert sorted(timed.index for timed in outcomes) == list(range(100))
    for timed in outcomes:
        assert isinstance(timed.outcome, Answer)
        assert timed.outcome.label == timed.index % 3
        assert 0 < timed.latency_s < 5


async def test_no_more_are_under_way_than_asked_for(scores: Path) -> None:
    most = 0

    def count(_sample: object) -> None:
        nonlocal most
        most = max(most, device.engine.in_flight)

    above = ScriptedTier(count)
    async with (
        scripted(above) as address,
        running(Tier.DEVICE, scores, 0, address, reserve_s=0.9) as device,
        AsyncClient(device.listen) as client,
    ):
        images = [SURE_AT[2]] * 12
        outcomes = [t async for t in client.infer_many(images, in_flight=3, deadline_s=1.0)]
    assert len(outcomes) == 12
    assert most == 3


def test_one_mistake_among_many_is_the_outcome_of_its_index(cloud: Program) -> None:
    images: list[Any] = [SURE_AT[0], np.zeros((2, 2, 1), np.uint8), Path("missing.png"), SURE_AT[2]]
    with Client(cloud.listen) as client:
        outcomes = {t.index: t.outcome for t in client.infer_many(images)}
    kinds = Counter(type(outcome).__name__ for outcome in outcomes.values())
    assert kinds == {"Answer": 2, "InvalidInput": 2}
    assert "payload.tensors[0]" in str(outcomes[1])
    assert "missing.png" in str(outcomes[2])


def test_leaving_the_loop_early_stops_the_rest_and_closes_at_once(cloud: Program) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield SURE_AT[0]

    with Client(cloud.listen) as client:
        for timed in client.infer_many(endless(), in_flight=4):
            if timed.index >= 10:
                break
        after_break = taken
        assert client.infer(SURE_AT[1]).label == 1
        assert taken == after_break
        forgotten = client.infer_many(endless(), in_flight=4)  # nor is one that is never closed
        next(forgotten)
        began = time.monotonic()
    assert time.monotonic() - began < 10


async def test_leaving_the_asynchronous_loop_early_stops_the_rest(cloud: Program) -> None:
    async with AsyncClient(cloud.listen) as client:
        many = client.infer_many([SURE_AT[0]] * 50, in_flight=4)
        async for _ in many:
            break
        await many.aclose()
        assert (await client.infer(SURE_AT[1])).label == 1


def test_what_the_images_raise_is_raised_to_the_caller(cloud: Program) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield SURE_AT[0]
        raise OSError("the camera is gone")

    with Client(cloud.listen) as client, pytest.raises(OSError, match="camera"):
        list(client.infer_many(broken(), in_flight=2))


async def test_a_callback_that_fails_ends_its_own_sample_alone() -> None:
    def so_far(sample: pb.Sample) -> None:
        tier.say(pb.Result(id=sample.id, answer=answer()))

    def broken(_so_far: Answer) -> None:
        raise KeyError("the caller's own mistake")

    tier = ScriptedTier(so_far)
    async with scripted(tier) as address, AsyncClient(address) as client:
        others = [asyncio.create_task(client.infer(SURE_AT[0])) for _ in range(3)]
        await eventually(lambda: len(tier.samples) == 3)
        with pytest.raises(KeyError, match="own mistake"):
            await client.infer(SURE_AT[0], early=broken)
        with pytest.raises(KeyError, match="own mistake"):
            async for _ in client.infer_many([SURE_AT[0]], early=lambda _, so_far: broken(so_far)):
                pass
        await eventually(lambda: tier.cancels)  # nobody waits for it any more
        for one in tier.samples[:3]:
            tier.answer(one)
        assert [(await other).label for other in others] == [2, 2, 2]
    assert tier.streams == 1


async def test_the_blocking_client_cannot_be_used_from_its_own_thread() -> None:
    def so_far(sample: pb.Sample) -> None:
        tier.say(pb.Result(id=sample.id, answer=answer()))

    def ask_in_own_thread(address: str) -> None:
        with Client(address) as client:
            for use in (partial(client.infer, SURE_AT[0]), client.close):
                with pytest.raises(RuntimeError, match="cannot be used from `early`"):
                    client.infer(SURE_AT[0], early=lambda _so_far, use=use: use())

    tier = ScriptedTier(so_far)
    async with scripted(tier) as address:
        await asyncio.to_thread(ask_in_own_thread, address)


def test_none_in_flight_is_refused(cloud: Program) -> None:
    with Client(cloud.listen) as client, pytest.raises(ValueError, match="in_flight"):
        list(client.infer_many([SURE_AT[0]], in_flight=0))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "", "::1:7101"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    threads = threading.active_count()
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match="is not HOST:PORT") as caught:
            kind(address)
        assert caught.value.field == "address"
    assert threading.active_count() == threads


@pytest.mark.parametrize("deadline_s", [0.2, 1e-9])
def test_a_dead_port_is_unavailable_within_the_deadline(deadline_s: float) -> None:
    with Client(NOWHERE) as client:
        began = time.monotonic()
        with pytest.raises(TierUnavailable, match="does not answer") as failure:
            client.infer(SURE_AT[0], deadline_s=deadline_s)
        assert time.monotonic() - began < deadline_s + 2
    assert failure.value.reason == "unreachable"


class SilentTier(ScriptedTier):
    """One that never answers a unary call; `asked` counts them."""

    asked = 0

    async def Release(self, _request: pb.ReleaseRequest, _context: Any) -> None:  # noqa: N802
        self.asked += 1
        await asyncio.Event().wait()

    Describe = Release


@pytest.mark.parametrize("call", ["describe", "release"])
@pytest.mark.parametrize("ends", ["client", "task"])
async def test_a_call_under_way_hears_that_the_client_is_closed_or_its_task_cancelled(
    call: str, ends: str
) -> None:
    tier = SilentTier(lambda _: None)
    async with scripted(tier) as address:
        async with AsyncClient(address) as client:
            calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                "describe": client.describe,
                "release": lambda: client.release(1),
            }
            asking = asyncio.create_task(calls[call]())
            await eventually(lambda: tier.asked)
            if ends == "task":
                asking.cancel()
                await asyncio.wait([asking])
        (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    assert type(outcome) is (TierUnavailable if ends == "client" else asyncio.CancelledError)


def test_no_time_at_all_is_a_deadline(cloud: Program) -> None:
    with Client(cloud.listen) as client:
        client.infer(SURE_AT[0])
        with pytest.raises(DeadlineExceeded):
            client.infer(SURE_AT[0], deadline_s=1e-9)
        assert client.infer(SURE_AT[0]).label == 0


def test_a_file_of_no_known_kind_is_refused_here(tmp_path: Path) -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidInput, match=r"\.png"):
        client.infer(tmp_path / "shoe.gif")


def test_numbers_of_either_byte_order_are_the_same_numbers(raw: Path) -> None:
    program = Program("cloud", raw, "--plan.last_stage", "1")
    try:
        with Client(program.listen) as client:
            x = np.array([0.0, 4.0, 1.0], np.float32).reshape(1, 3, 1)
            answers = [client.infer(x), client.infer(x.astype(">f4"))]
            with pytest.raises(InvalidInput, match="float64"):
                client.infer(x.astype(np.float64))
    finally:
        program.kill()
    assert [a.label for a in answers] == [1, 1]


def test_several_threads_may_share_a_client(cloud: Program) -> None:
    labels: list[int] = []
    with Client(cloud.listen) as client:

        def ask() -> None:
            labels.extend(client.infer(SURE_AT[2]).label for _ in range(20))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert labels == [2] * 80


def test_closing_lets_go_of_a_thread_that_waits_and_may_be_done_twice() -> None:
    ends: list[BaseException] = []
    waiting = threading.Event()
    client = Client(NOWHERE)

    def ask() -> None:
        waiting.set()
        try:
            client.infer(SURE_AT[0], deadline_s=1000)
        except TierUnavailable as exc:
            ends.append(exc)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    waiting.wait()
    client.close()
    client.close()
    thread.join(20)
    assert len(ends) == 1
    with pytest.raises(TierUnavailable, match="closed"):
        client.infer(SURE_AT[0])


def test_closing_lets_go_of_threads_that_ask_on_and_on() -> None:
    ends: list[str] = []

    def ask_on(client: Client) -> None:
        while "client is closed" not in (ends[-1] if ends else ""):
            try:
                client.infer(SURE_AT[0], deadline_s=0.01)
            except (TierUnavailable, DeadlineExceeded) as exc:
                ends.append(str(exc))

    for _ in range(20):
        ends.clear()
        client = Client(NOWHERE)
        asking = [threading.Thread(target=ask_on, args=(client,), daemon=True) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(0.03)
        client.close()
        for thread in asking:
            thread.join(5)
        assert not any(thread.is_alive() for thread in asking)


def test_what_is_collected_in_the_thread_of_the_client_does_not_stop_it(cloud: Program) -> None:
    collected = threading.Event()

    def collecting() -> Iterator[np.ndarray]:
        while True:
            if forgotten:
                forgotten.clear()
                gc.collect()
                collected.set()
            yield SURE_AT[0]

    forgotten: list[Any] = []
    client = Client(cloud.listen)
    gc.disable()
    try:
        many = client.infer_many(itertools.repeat(SURE_AT[0]), in_flight=2)
        next(many)
        ring: list[Any] = [many]
        ring.append(ring)
        del many, ring
        forgotten.append(True)
        threading.Thread(target=lambda: next(client.infer_many(collecting())), daemon=True).start()
        assert collected.wait(5)
    finally:
        gc.enable()
    assert client.infer(SURE_AT[1]).label == 1
    client.close()


def test_a_program_that_forgets_what_it_began_ends(cloud: Program) -> None:
    script = f"""
import itertools, numpy as np
from offramp import Client
image = np.array({SURE_AT[0].tolist()}, np.uint8)
many = Client({cloud.listen!r}).infer_many(itertools.repeat(image))
next(many)
"""
    done = subprocess.run([sys.executable, "-c", script], env=clean_environment(), timeout=30)
    assert done.returncode == 0


def test_a_client_finds_a_tier_that_comes_later(
    scores: Path, start: Callable[..., Program]
) -> None:
    address = start("cloud", scores)
    address.kill()
    with Client(address.listen) as client:
        start("cloud", scores, listen=address.listen)
        assert client.infer(SURE_AT[1], deadline_s=30).label == 1
