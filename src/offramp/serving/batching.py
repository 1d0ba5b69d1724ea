"""Batches of whatever waits: what arrives while a batch computes is the next batch; no timer unless a setting asks.

    submit() -> queue of a stage, the origins in turn -> [ inference thread ] -> settle()

One batch computes at a time, in the one inference thread; the deepest stage goes first, so that what is nearly
done leaves before what is new begins. Within a queue each origin has its turn, one that floods when the others had
theirs, and then for a short time. No batch is made so large that it would end after a deadline in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from offramp.errors import DeadlineExceeded, TierUnavailable
from offramp.rpc import Origin
from offramp.rpc.pending import set_outcome
from offramp.serving.foresight import StageTime
from offramp.serving.turns import FairQueue, Settle, Shares, Turn
from offramp.serving.work import Work
from offramp.telemetry import TierMetrics

RunStage = Callable[[int, Sequence[Work]], list[Exception | None]]
# How long a batch may be made by samples of an origin that sends far more than its share: the others wait for it.
_QUANTUM_S = 0.002
# The only sample of a tier is computed on the event loop where its stage is this short: the way to the thread and back
# costs more than what the loop could do meanwhile, for who comes in meanwhile waits for the stage all the same. With
# others under way it is the thread's, for while that computes the others come in, and are the next batch.
_SHORT_S = 0.005
_TIMER_S = 0.002  # how late a timer of the event loop, which counts milliseconds, mostly is at most
_UNKNOWN = StageTime()  # of a stage in which nothing was computed yet


class Batcher:
    """Queues per stage before the inference thread. Start it in a running event loop; close it when done.

    wait_s: how long a stage that is free waits for more than it has, at most: from when the first of them came, and no
    longer than leaves time to compute before the first deadline. took: seconds that one sample takes in a stage, where
    that is known beforehand.
    """

    def __init__(
        self,
        run_stage: RunStage,
        *,
        most: int,
        metrics: TierMetrics,
        wait_s: float = 0.0,
        took: Mapping[int, float] | None = None,
    ) -> None:
        self._run_stage, self._most, self._metrics = run_stage, most, metrics
        self._wait_s = wait_s
        self._gathering: asyncio.TimerHandle | None = None  # until a stage waits for no more
        self._queues: dict[int, FairQueue] = {}
        self._times = defaultdict(StageTime, {k: StageTime(s) for k, s in (took or {}).items()})
        self._shares = Shares()
        self._running: list[Turn] = []
        self._free_at = 0.0  # when the batch that computes will be done
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loop: asyncio.AbstractEventLoop | None = None  # while it serves
        self._is_busy = False  # a batch computes, or is about to be made up

    def start(self) -> None:
        """Begin to serve the queues."""
        self._loop = asyncio.get_running_loop()
        self._go_on()

    def close(self) -> None:
        """Stop; whatever still waits hears TierUnavailable."""
        self._loop = None
        self._gather(math.inf)
        waiting, self._running = self._running, []
        for queue in self._queues.values():
            while queue:
                waiting.append(queue.take())
        for turn in waiting:
            turn.end(TierUnavailable("unreachable", "this tier has shut down"))
        self._executor.shutdown()

    def submit(
        self, work: Work, stage: int, deadline: float, settle: Settle, *, is_alone: bool = False
    ) -> Turn:
        """Let the work wait for the stage.

        `settle` hears None once the work has passed it, InvalidInput for its payload, or DeadlineExceeded where the
        deadline passed before its turn; of a work that is alone, perhaps before this returns.
        """
        turn = Turn(work, deadline, settle)
        origin = work.sample.id.origin
        self._shares.add(origin, turn.since)
        if is_alone and turn.since < deadline and self._computes_now(stage):
            self._compute_now(stage, turn)
            return turn
        queue = self._queues.get(stage)
        if queue is None:
            queue = self._queues[stage] = FairQueue(self._shares)
        queue.put(turn)
        self._go_on()
        return turn

    def _computes_now(self, stage: int) -> bool:
        """Whether a sample that is alone need not queue: the loop has nothing at hand that could go with it."""
        is_free = self._loop is not None and not (self._is_busy or self._wait_s)
        return is_free and 0.0 < self._times[stage].sample_s < _SHORT_S

    def _compute_now(self, stage: int, turn: Turn) -> None:
        self._is_busy, self._running = True, [turn]
        began = time.monotonic()
        self._end_batch(stage, self._running, began, self._computed(stage, self._running))

    def needed_s(self, origin: Origin, stage: int) -> float:
        """How long until one more of this origin would be through the stage, as the last batches went.

        0 where nothing waits or computes: an idle tier tries, or it would never learn that it has become faster.
        """
        if not self._is_busy and self._gathering is None:
            return 0.0
        ahead_s = 0.0
        for k, queue in self._queues.items():
            if queue:
                ahead_s += queue.ahead_of(origin) * self._times[k].sample_s
        if not (ahead_s or self._running):
            return 0.0
        own = self._times.get(stage, _UNKNOWN)  # whatever number a caller gave, it makes no entry
        computing_s = max(0.0, self._free_at - time.monotonic())
        return computing_s + ahead_s + own.sample_s + own.margin_s

    async def advance(self, work: Work, stage: int, deadline: float) -> None:
        """Return once the work has passed the stage. Raises what `submit` would settle with."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = self.submit(work, stage, deadline, partial(set_outcome, done))
        try:
            await done
        finally:
            turn.give_up()
            del done  # with an error it would be a circle: that has this frame in its traceback

    def _go_on(self) -> None:
        """Make up the next batch once everything that the loop has at hand has come in."""
        if self._loop is not None and not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin_batch)

    def _begin_batch(self) -> None:
        stage, batch = self._next_batch()
        if not batch or self._loop is None:
            self._is_busy = False
            return
        self._running = batch
        began = time.monotonic()
        self._free_at = began + len(batch) * self._times[stage].sample_s
        loop = self._loop

        def done(future: Future[list[Exception | None]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended without a close()
                loop.call_soon_threadsafe(self._end_batch, stage, batch, began, future.result())

        self._executor.submit(self._computed, stage, batch).add_done_callback(done)

    def _computed(self, stage: int, batch: Sequence[Turn]) -> list[Exception | None]:
        """What was wrong with each; a fault of the stage is that of all."""
        try:
            errors = self._run_stage(stage, [turn.work for turn in batch])
            return [error for _, error in zip(batch, errors, strict=True)]
        except Exception as exc:  # whoever hears of it logs it
            return [exc] * len(batch)

    def _end_batch(
        self, stage: int, batch: list[Turn], began: float, errors: list[Exception | None]
    ) -> None:
        if self._running is not batch:
            return  # closed meanwhile
        self._running, self._is_busy = [], False
        if any(self._queues.values()):
            self._go_on()
        self._settle(stage, list(zip(batch, errors, strict=True)), began, time.monotonic() - began)

    def _next_batch(self) -> tuple[int, list[Turn]]:
        now, next_s = time.monotonic(), math.inf
        for stage in sorted(self._queues, reverse=True):
            left_s = self._gathers_for(stage, now)
            if left_s > 0:
                next_s = min(next_s, left_s)
            elif batch := self._batch_of(stage, now):
                return stage, batch
        self._gather(next_s)
        return 0, []

    def _gathers_for(self, stage: int, now: float) -> float:
        """Seconds that this stage may still wait for company of those who wait for it; 0 where it goes on."""
        queue = self._queues[stage]
        if not (self._wait_s and 0 < len(queue) < self._most):
            return 0.0
        stage_time = self._times[stage]
        needed_s = len(queue) * stage_time.sample_s + stage_time.margin_s + _TIMER_S
        return min(queue.since + self._wait_s, queue.first_deadline - needed_s) - now

    def _gather(self, seconds: float) -> None:
        """Look again after that time, unless something comes before."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._loop is not None and seconds < math.inf:
            self._gathering = self._loop.call_later(seconds, self._go_on)

    def _batch_of(self, stage: int, now: float) -> list[Turn]:
        """Those whose turn it is, as many as can be done before the first deadline among them."""
        queue, stage_time = self._queues[stage], self._times[stage]
        sample_s, margin_s = stage_time.sample_s, stage_time.margin_s
        until, quantum_ends = math.inf, now + _QUANTUM_S
        batch: list[Turn] = []
        while queue and len(batch) < self._most:
            ends = now + (len(batch) + 1) * sample_s
            if batch and (ends > until or (ends > quantum_ends and queue.is_excess)):
                break
            turn = queue.take()
            if turn.given_up:
                continue
            is_last = not (batch or queue)  # and tried whatever is foreseen
            if turn.deadline <= (now if is_last else now + sample_s):
                turn.end(DeadlineExceeded("its deadline passed in the queue"))
                continue
            until = min(until, turn.deadline - margin_s)
            batch.append(turn)
        return batch

    def _settle(
        self,
        stage: int,
        outcomes: Sequence[tuple[Turn, Exception | None]],
        began: float,
        computed_s: float,
    ) -> None:
        self._metrics.observe_batch(stage, len(outcomes), computed_s)
        self._times[stage].learn(len(outcomes), computed_s)
        for turn, error in outcomes:
            queued_s = began - turn.since
            self._metrics.observe_queue(stage, queued_s)
            work = turn.work
            work.queued_s += queued_s
            work.computed_s += computed_s
            work.batch = max(work.batch, len(outcomes))
            turn.end(error)
