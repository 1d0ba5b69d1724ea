"""Batches of whatever waits: no timer, no minimum; what arrives while a batch computes is the next batch.

One batch computes at a time, in the one inference thread; the deepest stage goes first, so that what is nearly
done leaves before what is new begins.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from offramp.errors import DeadlineExceeded
from offramp.serving.work import Work
from offramp.telemetry import TierMetrics

RunStage = Callable[[int, Sequence[Work]], list[Exception | None]]


@dataclass(slots=True)
class _Waiting:
    work: Work
    deadline: float
    done: asyncio.Future[None]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Queues per stage before the inference thread. Start it in a running event loop; close it when done."""

    def __init__(self, run_stage: RunStage, *, most: int, metrics: TierMetrics) -> None:
        self._run_stage, self._most, self._metrics = run_stage, most, metrics
        self._queues: dict[int, deque[_Waiting]] = {}
        self._running: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve the queues."""
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def close(self) -> None:
        """Stop; whatever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for waiting in itertools.chain(self._running, *self._queues.values()):
            waiting.done.cancel()
        self._executor.shutdown()

    async def advance(self, work: Work, stage: int, deadline: float) -> None:
        """Return once the work has passed the stage.

        Raises InvalidInput for its payload, and DeadlineExceeded where the deadline passed before its turn.
        """
        waiting = _Waiting(work, deadline, asyncio.get_running_loop().create_future())
        self._queues.setdefault(stage, deque()).append(waiting)
        self._wake.set()
        await waiting.done

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            stage, batch = self._next_batch()
            self._running = batch
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            works = [waiting.work for waiting in batch]
            began = time.monotonic()
            try:
                errors = await loop.run_in_executor(self._executor, self._run_stage, stage, works)
                self._settle(stage, batch, errors, began, time.monotonic() - began)
            except Exception as exc:  # each of their conversations logs it
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_exception(exc)

    def _next_batch(self) -> tuple[int, list[_Waiting]]:
        for stage in sorted(self._queues, reverse=True):
            queue, now = self._queues[stage], time.monotonic()
            batch: list[_Waiting] = []
            while queue and len(batch) < self._most:
                waiting = queue.popleft()
                if waiting.done.done():
                    continue  # cancelled while it waited
                if waiting.deadline <= now:
                    waiting.done.set_exception(DeadlineExceeded("its deadline passed in the queue"))
                    continue
                batch.append(waiting)
            if batch:
                return stage, batch
        return 0, []

    def _settle(
        self,
        stage: int,
        batch: list[_Waiting],
        errors: list[Exception | None],
        began: float,
        computed_s: float,
    ) -> None:
        self._metrics.observe_batch(stage, len(batch), computed_s)
        for waiting, error in zip(batch, errors, strict=True):
            queued_s = began - waiting.since
            self._metrics.observe_queue(stage, queued_s)
            work = waiting.work
            work.queued_s += queued_s
            work.computed_s += computed_s
            work.batch = max(work.batch, len(batch))
            if waiting.done.done():
                continue
            if error is not None:
                waiting.done.set_exception(error)
            else:
                waiting.done.set_result(None)
