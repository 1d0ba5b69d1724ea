"""What waits while a batch computes is the next batch; each sample in it keeps its own fate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import calling, sample, tensors

from offramp.bundle import load_bundle
from offramp.errors import DeadlineExceeded, InvalidInput, TierUnavailable
from offramp.rpc import Origin, Sample, SampleId, TensorBytes, Tier
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.batching import Batcher
from offramp.serving.foresight import StageTime
from offramp.serving.runner import StageRunner
from offramp.serving.turns import Turn
from offramp.serving.work import Work, run_stage
from offramp.telemetry import TierMetrics

LATER = float("inf")
NOT_ASKED: Any = None  # a batcher does not look at what holds its works


class NoBrownout:
    """All that a stage asks of what holds its works."""

    def brownout_threshold(self, _policy_id: str, _stage: int) -> None:
        return None


class GatedStages:
    """Stages that wait at a gate, and remember who came through it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []
        self.gate = threading.Event()
        self.fails = self.forgets = False

    def __call__(self, stage: int, works: Sequence[Work]) -> list[Exception | None]:
        self.batches.append((stage, [work.sample.id.sequence for work in works]))
        assert self.gate.wait(20)
        if self.fails:
            raise RuntimeError("the runtime broke")
        if self.forgets:
            return []
        return [InvalidInput("payload", "odd") if w.boundary == 7 else None for w in works]


@asynccontextmanager
async def batching(stages: GatedStages, most: int, wait_s: float = 0.0) -> AsyncIterator[Batcher]:
    metrics = TierMetrics("cloud", [0, 1])
    batcher = Batcher(stages, most=most, metrics=metrics, wait_s=wait_s)
    batcher.start()
    try:
        yield batcher
    finally:
        stages.gate.set()
        batcher.close()


@pytest.fixture
def works(scores: Path) -> list[Work]:
    policy = load_bundle(scores).manifest.policies[0]
    origin = Origin("test", 1)
    return [
        Work(
            NOT_ASKED,
            Sample(
                id=SampleId(origin, k), boundary=0, network="", policy="", deadline=0, payload=()
            ),
            policy,
            boundary=0,
        )
        for k in range(10)
    ]


async def test_what_waits_becomes_one_batch_and_never_more_than_the_limit(
    works: list[Work],
) -> None:
    stages = GatedStages()
    async with batching(stages, most=4) as batcher:
        passing = [asyncio.create_task(batcher.advance(w, 0, LATER)) for w in works[:1]]
        await eventually(lambda: stages.batches)
        passing += [asyncio.create_task(batcher.advance(w, 0, LATER)) for w in works[1:7]]
        await asyncio.sleep(0)  # they are in the queue now
        stages.gate.set()
        await asyncio.gather(*passing)
    assert stages.batches == [(0, [0]), (0, [1, 2, 3, 4]), (0, [5, 6])]
    assert [work.batch for work in works[:7]] == [1, 4, 4, 4, 4, 2, 2]


async def test_the_deepest_stage_goes_first(works: list[Work]) -> None:
    stages = GatedStages()
    async with batching(stages, most=4) as batcher:
        passing = [asyncio.create_task(batcher.advance(works[0], 0, LATER))]
        await eventually(lambda: stages.batches)
        passing.append(asyncio.create_task(batcher.advance(works[1], 0, LATER)))
        passing.append(asyncio.create_task(batcher.advance(works[2], 1, LATER)))
        await asyncio.sleep(0)
        stages.gate.set()
        await asyncio.gather(*passing)
    assert stages.batches == [(0, [0]), (1, [2]), (0, [1])]


async def test_who_is_late_or_gone_is_not_computed(works: list[Work]) -> None:
    stages = GatedStages()
    async with batching(stages, most=4) as batcher:
        first = asyncio.create_task(batcher.advance(works[0], 0, LATER))
        await eventually(lambda: stages.batches)
        late = asyncio.create_task(batcher.advance(works[1], 0, 0.0))
        gone = asyncio.create_task(batcher.advance(works[2], 0, LATER))
        last = asyncio.create_task(batcher.advance(works[3], 0, LATER))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        stages.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        await asyncio.gather(first, last)
    assert stages.batches == [(0, [0]), (0, [3])]


async def test_an_error_is_of_one_sample_and_a_fault_of_its_batch(works: list[Work]) -> None:
    stages = GatedStages()
    stages.gate.set()
    works[1].boundary = 7
    async with batching(stages, most=4) as batcher:
        together = [batcher.advance(work, 0, LATER) for work in works[:3]]
        first, second, third = await asyncio.gather(*together, return_exceptions=True)
        assert (first, str(second), third) == (None, "payload: odd", None)
        stages.fails = True
        with pytest.raises(RuntimeError, match="broke"):
            await batcher.advance(works[3], 0, LATER)
        stages.fails = False
        await batcher.advance(works[4], 0, LATER)


async def test_a_fault_in_decoding_one_payload_is_of_that_sample_alone(scores: Path) -> None:
    bundle = load_bundle(scores)
    origin, policy = Origin("test", 1), bundle.manifest.policies[0]
    payloads: list[Any] = [(TensorBytes(SURE_AT[0].tobytes()),), (None,)]
    batch = [
        Work(
            NoBrownout(),
            Sample(
                id=SampleId(origin, k), boundary=0, network="", policy="", deadline=0, payload=one
            ),
            policy,
            boundary=0,
        )
        for k, one in enumerate(payloads)
    ]
    sound, faulty = run_stage(StageRunner(bundle, [0]), bundle.manifest, 0, batch)
    assert sound is None
    assert isinstance(faulty, AttributeError)
    assert batch[0].best is not None


async def test_a_fault_in_settling_a_batch_is_not_the_end_of_batches(works: list[Work]) -> None:
    stages = GatedStages()
    stages.gate.set()
    async with batching(stages, most=4) as batcher:
        stages.forgets = True
        with pytest.raises(ValueError, match="zip"):
            await batcher.advance(works[0], 0, LATER)
        stages.forgets = False
        await batcher.advance(works[1], 0, LATER)


async def test_closing_leaves_nobody_waiting(works: list[Work]) -> None:
    stages = GatedStages()
    async with batching(stages, most=1) as batcher:
        passing = [asyncio.create_task(batcher.advance(w, 0, LATER)) for w in works[:3]]
        await eventually(lambda: stages.batches)
    ends = await asyncio.gather(*passing, return_exceptions=True)
    assert [str(end) for end in ends] == ["this tier has shut down"] * 3


async def test_the_wait_is_foreseen_from_the_batches_before(works: list[Work]) -> None:
    stages = GatedStages()
    async with batching(stages, most=1) as batcher:
        origin = works[0].sample.id.origin
        assert batcher.needed_s(origin, 0) == 0.0  # nothing is known yet
        first = asyncio.create_task(batcher.advance(works[0], 0, LATER))
        await eventually(lambda: stages.batches)
        await asyncio.sleep(0.05)
        stages.gate.set()
        await first
        stages.gate.clear()
        passing = [asyncio.create_task(batcher.advance(w, 0, LATER)) for w in works[1:4]]
        await eventually(lambda: len(stages.batches) == 2)
        assert (
            batcher.needed_s(origin, 0) >= 0.1
        )  # two that wait; the one that computes comes on top
        stages.gate.set()
        await asyncio.gather(*passing)


def turns_of(batcher: Batcher, works: list[Work], devices: Sequence[str], deadline: float) -> None:
    """A sample of each of those devices in the queue of stage 0."""
    for k, device in enumerate(devices):
        sample_id = SampleId(Origin(device, 1), k)
        work = replace(works[0], sample=works[0].sample._replace(id=sample_id))
        batcher.submit(work, 0, deadline, lambda _: None)


@pytest.mark.parametrize(
    ("devices", "most"),
    [
        (["one"] * 10, 8),
        (["another", *["one"] * 9], 4),
        (["another", "one"] * 5, 8),
        ([f"device {k}" for k in range(10)], 8),
    ],
    ids=["one", "a flood beside another", "two alike", "ten alike"],
)
async def test_batches_are_short_of_who_floods_while_others_are_there(
    works: list[Work], devices: list[str], most: int
) -> None:
    stages = GatedStages()
    async with batching(stages, most=8) as batcher:
        batcher._times[0] = StageTime(0.0005)  # a sample, so that a quantum holds four
        turns_of(batcher, works, devices, LATER)
        await eventually(lambda: stages.batches)
        assert len(stages.batches[0][1]) == most


async def test_no_batch_ends_after_a_deadline_in_it(works: list[Work]) -> None:
    stages = GatedStages()
    async with batching(stages, most=8) as batcher:
        batcher._times[0] = StageTime(0.5)
        turns_of(batcher, works, ["one"] * 9, time.monotonic() + 2.2)
        await eventually(lambda: stages.batches)
        assert len(stages.batches[0][1]) == 4


async def test_what_cannot_be_done_in_time_is_not_begun_but_the_last_is_tried(
    works: list[Work],
) -> None:
    stages = GatedStages()
    async with batching(stages, most=8) as batcher:
        batcher._times[0] = StageTime(30.0)  # as a tier may believe that has been slow once
        turns_of(batcher, works, ["one"] * 3, time.monotonic() + 20.0)
        await eventually(lambda: stages.batches)
        assert stages.batches == [(0, [2])]


async def test_a_free_stage_waits_for_more_only_where_it_is_told_to(works: list[Work]) -> None:
    stages = GatedStages()
    stages.gate.set()
    async with batching(stages, most=3, wait_s=0.2) as batcher:
        passing = [asyncio.create_task(batcher.advance(works[0], 0, LATER))]
        await asyncio.sleep(0.02)
        assert not stages.batches
        passing.append(asyncio.create_task(batcher.advance(works[1], 0, LATER)))
        await asyncio.gather(*passing)
        assert stages.batches == [(0, [0, 1])]


async def test_a_full_batch_waits_for_nobody_and_nobody_waits_for_another_stage(
    works: list[Work],
) -> None:
    stages = GatedStages()
    stages.gate.set()
    async with batching(stages, most=3, wait_s=30.0) as batcher:
        waiting = asyncio.create_task(batcher.advance(works[9], 1, LATER))
        full = [asyncio.create_task(batcher.advance(w, 0, LATER)) for w in works[:3]]
        await asyncio.gather(*full)
        assert stages.batches == [(0, [0, 1, 2])]
    with pytest.raises(TierUnavailable, match="shut down"):
        await waiting


async def test_no_stage_waits_beyond_a_deadline(works: list[Work]) -> None:
    stages = GatedStages()
    stages.gate.set()
    async with batching(stages, most=8, wait_s=30.0) as batcher:
        batcher._times[0] = StageTime(0.05)
        patient = asyncio.create_task(batcher.advance(works[0], 0, LATER))
        await batcher.advance(works[1], 0, time.monotonic() + 0.4)
        patient.cancel()
    assert 1 in stages.batches[0][1]


@pytest.mark.parametrize(
    ("is_alone", "sample_s", "thread"),
    [(True, 0.0001, "MainThread"), (False, 0.0001, "inference_0"), (True, 0.1, "inference_0")],
)
async def test_only_a_sample_that_is_alone_in_a_short_stage_is_computed_on_the_event_loop(
    works: list[Work], is_alone: bool, sample_s: float, thread: str
) -> None:
    computed_in: list[str] = []

    def stage(_stage: int, batch: Sequence[Work]) -> list[Exception | None]:
        computed_in.append(threading.current_thread().name)
        return [None] * len(batch)

    batcher = Batcher(stage, most=4, metrics=TierMetrics("cloud", [0]))
    batcher._times[0] = StageTime(sample_s)
    batcher.start()
    await asyncio.sleep(0)  # it has looked whether anything waits
    batcher.submit(works[0], 0, LATER, lambda _: None, is_alone=is_alone)
    await eventually(lambda: computed_in)
    batcher.close()
    assert computed_in == [thread]


def test_a_stage_s_time_is_learnt_with_how_far_off_it_is() -> None:
    steady, jumpy = StageTime(), StageTime()
    for k in range(100):
        steady.learn(4, 0.4)
        jumpy.learn(4, 0.4 if k % 2 else 0.6)
    assert steady.sample_s == pytest.approx(0.1)
    assert steady.margin_s == pytest.approx(0.0)
    assert jumpy.sample_s == pytest.approx(0.125, rel=0.1)
    assert jumpy.margin_s == pytest.approx(0.2, rel=0.15)


async def test_one_batch_may_hold_exits_policies_and_mistakes_of_all_kinds(scores: Path) -> None:
    names = [pb.Name(number=k, policy=name) for k, name in ((1, "never"), (2, "always"))]
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(names=names)
        results = await caller.ask(
            sample(1, SURE_AT[0]),
            sample(2, SURE_AT[0], policy=1),
            sample(3, SURE_AT[2], policy=2),
            sample(4, payload=pb.Payload(image=pb.Image(data=b"x", media_type="image/png"))),
            sample(5, SURE_AT[1]),
            sample(6, payload=tensors(b"\x19\x00\x00\x90"), boundary=1),
            sample(7, SURE_AT[2]),
        )
        seen = scrape(cloud.metrics)
    outcomes = [(r.answer.exit, r.answer.label) if r.HasField("answer") else None for r in results]
    assert outcomes == [(0, 0), (2, 2), (0, 0), None, (1, 1), (1, 1), (2, 2)]
    assert seen["offramp_batch_size_sum", 'stage="0"'] == 6


async def test_samples_that_come_apart_share_a_batch_where_the_setting_asks(scores: Path) -> None:
    wait = {"batch": 2, "batch_wait_s": 1.0}
    async with (
        running(Tier.CLOUD, scores, 2, inference=wait) as cloud,
        calling(cloud.listen) as caller,
    ):
        first = asyncio.create_task(caller.ask(sample(0, SURE_AT[0])))
        await asyncio.sleep(0.05)
        async with calling(cloud.listen) as other:
            results = [*await other.ask(sample(1, SURE_AT[0])), *await first]
    assert [r.answer.trail[0].batch for r in results] == [2, 2]


async def test_alone_is_what_nothing_came_with_or_is_still_on_its_way_out(
    scores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, seen = Batcher.submit, []

    def noted(batcher: Batcher, *args: Any, is_alone: bool) -> Turn:
        seen.append(is_alone)
        return submit(batcher, *args, is_alone=is_alone)

    monkeypatch.setattr(Batcher, "submit", noted)
    async with running(Tier.CLOUD, scores, 2) as cloud, calling(cloud.listen) as caller:
        for together in (1, 2, 1):
            await caller.ask(*(sample(10 * len(seen) + k, SURE_AT[0]) for k in range(together)))
            await asyncio.sleep(0.1)  # until what was said is out
    assert seen == [True, False, False, True]


async def test_a_lone_sample_is_through_a_short_stage_before_submit_returns(
    works: list[Work],
) -> None:
    stages, ends = GatedStages(), []
    stages.gate.set()
    async with batching(stages, most=4) as batcher:
        batcher._times[0] = StageTime(0.001)
        await asyncio.sleep(0)  # it has looked whether anything waits
        turn = batcher.submit(works[0], 0, LATER, ends.append, is_alone=True)
        assert (turn.is_over, ends) == (True, [None])
        turn = batcher.submit(works[1], 0, LATER, ends.append)
        assert not turn.is_over
        await eventually(lambda: len(ends) == 2)


async def test_no_batch_is_larger_than_the_setting(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, inference={"batch": 8}) as cloud,
        calling(cloud.listen) as caller,
    ):
        results = await caller.ask(*(sample(k, SURE_AT[0]) for k in range(40)))
        seen = scrape(cloud.metrics)
    assert {r.answer.label for r in results} == {0}
    assert max(r.answer.trail[0].batch for r in results) == 8
    assert seen["offramp_batch_size_sum", 'stage="0"'] == 40
    assert seen["offramp_batch_size_count", 'stage="0"'] == 5
    assert seen["offramp_batch_size_bucket", 'le="8.0",stage="0"'] == 5
