"""What a tier keeps of samples that it answered degraded, for the full answer later.

    degraded answer --kept(), on disk before it is sent--> StoreFile <--next_due(), finish()-- forwarding
                                                               |
                                                               +--waiting(), results()--> results

One thread uses the file, so that no request waits for the disk but those that are kept. What gathers while it commits
goes into the next commit together.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from offramp.errors import DeadlineExceeded
from offramp.rpc import Answer, Sample, SampleId
from offramp.rpc.stored import StoredRecord, outcome_record, record_of
from offramp.serving.settings import StoreSettings
from offramp.serving.store_file import Entry, Placed, StoreFile
from offramp.telemetry.store import Put, StoreMetrics

logger = logging.getLogger(__name__)
T = TypeVar("T")
# Before a kept sample is asked for the first time: what its caller's hop left above is cancelled or answered by then.
FIRST_S = 1.0
_PAGE = 64  # results read at once, so that commits come in between
_EXPIRE_S = 60.0


class Keeper(Protocol):
    """Where an engine leaves the samples that it answered degraded."""

    def wants(self, sample: Sample, answer: Answer) -> bool:
        """Whether the sample is to be kept after this answer to it."""
        ...

    async def kept(self, sample: Sample, answer: Answer) -> Answer:
        """The answer, `stored` where the sample is on the disk by now."""
        ...


class NoStore:
    """Keeps nothing."""

    def wants(self, _sample: Sample, _answer: Answer) -> bool:
        """Nothing."""
        return False

    async def kept(self, _sample: Sample, answer: Answer) -> Answer:
        """The answer as it is."""
        return answer


@dataclass(slots=True, eq=False)
class _Putting:
    entry: Entry
    outcome: asyncio.Future[Put]  # done before it has one: nobody waits for it


class Store:
    """Start it in a running event loop; close it, and its thread, when nothing is being answered any more."""

    def __init__(
        self, settings: StoreSettings, metrics: StoreMetrics, thread: ThreadPoolExecutor
    ) -> None:
        self._settings, self.metrics = settings, metrics
        self._reasons = frozenset(settings.reasons.split(","))
        self._thread = thread  # of which there is one
        self._file: StoreFile | None = None
        self._unwritten: list[_Putting] = []
        self._committing: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._is_failing = False
        self._news = asyncio.Event()  # set and replaced with every result
        self._waits = asyncio.Event()  # set while something waits for its full answer
        self.resent: set[SampleId] = set()  # being asked again: kept as they are

    async def start(self) -> None:
        """Open the file. Raises InvalidSettings where that cannot be."""
        folder, most_bytes = Path(self._settings.folder), self._settings.most_bytes
        self._file = await self._run(lambda: StoreFile(folder, most_bytes))
        file = self._file
        self.metrics.show(
            held=lambda state: getattr(file.totals, state),
            size_bytes=lambda: file.totals.size_bytes,
            oldest_s=lambda: 0.0 if (since := file.totals.oldest) is None else file.now - since,
        )
        self._look()
        self._expiring = asyncio.create_task(self._expire(), name="expiry of results")
        waiting, answered, failed, *_ = file.totals
        logger.info(
            "store %s: %d wait, %d results, %d failed", file.path, waiting, answered, failed
        )

    async def close(self) -> None:
        """Commit what is to be kept, and close the file."""
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.wait([self._expiring])
        if self._committing is not None:
            await self._committing
        if self._file is not None:
            await self._run(self._file.close)
        self._thread.shutdown()

    @property
    def file(self) -> StoreFile:
        """For calls in its own thread. Raises RuntimeError before start()."""
        if self._file is None:
            raise RuntimeError("the store is not open")
        return self._file

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _written(self, call: Callable[[], T]) -> T | None:
        """What a call that writes returns; None where it cannot, which is logged once until one can."""
        try:
            found = await self._run(call)
        except sqlite3.Error as exc:
            self.metrics.failures.add()
            if not self._is_failing:
                logger.warning(
                    "store %s: %s; samples are answered, but not kept", self.file.path, exc
                )
            self._is_failing = True
            return None
        if self._is_failing:
            logger.info("store %s: works again", self.file.path)
            self._is_failing = False
        self._look()
        return found

    def _look(self) -> None:
        if self.file.totals.waiting:
            self._waits.set()
        else:
            self._waits.clear()

    # --- an answer ----------------------------------------------------------------------------------

    def wants(self, sample: Sample, answer: Answer) -> bool:
        """Whether that reason is one to keep samples for; not for those whose callers asked for a local answer."""
        return (
            answer.degraded in self._reasons and not sample.local and sample.id not in self.resent
        )

    async def kept(self, sample: Sample, answer: Answer) -> Answer:
        """The answer, `stored` where the sample is on the disk by now.

        That is waited for no longer than half of the time left, and store.most_wait_s; what is later is forgotten.
        """
        if not self.wants(sample, answer):
            return answer
        stored = answer._replace(stored=True)
        left_s = (sample.deadline - time.monotonic()) / 2
        outcome = await self._put(sample, stored, min(left_s, self._settings.most_wait_s))
        self.metrics.puts[outcome].add()
        return stored if outcome == "stored" else answer

    async def _put(self, sample: Sample, answer: Answer, within_s: float) -> Put:
        if within_s <= 0:
            return "late"
        degraded = outcome_record(answer)
        entry = Entry(sample.id, *record_of(sample), degraded, FIRST_S)
        putting = _Putting(entry, asyncio.get_running_loop().create_future())
        self._unwritten.append(putting)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit(), name="commits of the store")
        try:
            return await asyncio.wait_for(putting.outcome, within_s)  # which cancels it
        except TimeoutError:
            return "late"

    async def _commit(self) -> None:
        try:
            while self._unwritten:
                together = [one for one in self._unwritten if not one.outcome.done()]
                self._unwritten = []
                if together:
                    await self._commit_all(together)
        finally:
            self._committing = None

    async def _commit_all(self, together: list[_Putting]) -> None:
        entries = [one.entry for one in together]
        written = await self._written(lambda: self.file.put(entries))
        placed: Sequence[Placed | Put] = written or ["broken"] * len(together)
        new: set[SampleId] = set()
        promised: set[SampleId] = set()
        for one, place in zip(together, placed, strict=True):
            outcome: Put = "stored" if place == "there" else place
            if place == "stored":
                new.add(one.entry.id)
            if not one.outcome.done():
                one.outcome.set_result(outcome)
                if outcome == "stored":
                    promised.add(one.entry.id)
        if late := new - promised:
            await self._written(lambda: self.file.discard(late))

    # --- asking again -------------------------------------------------------------------------------

    async def something_waits(self) -> None:
        """Return once a sample waits for its full answer."""
        await self._waits.wait()

    async def next_due(self, but: set[int]) -> StoredRecord | None:
        """The one that has been due for the longest, but for the numbers of those that are being asked."""
        numbers = frozenset(but)
        try:
            return await self._run(lambda: self.file.next_due(numbers))
        except sqlite3.Error as exc:
            self.metrics.failures.add()
            logger.debug("store %s: %s", self.file.path, exc)
            return None

    async def put_off(self, record: StoredRecord, seconds: float) -> None:
        """It was asked in vain."""
        await self._written(lambda: self.file.put_off(record.number, seconds))

    async def finish(self, record: StoredRecord, outcome: Answer | Exception) -> bool:
        """Whether it is written that it has its full answer, or will have none; once, however often this is said."""
        failed = isinstance(outcome, Exception)
        full = outcome_record(outcome)
        done = await self._written(lambda: self.file.finish(record.number, full, failed=failed))
        self._tell()
        return done is not None

    async def forget(self, record: StoredRecord) -> None:
        """It makes no sense any more."""
        self.metrics.failures.add()
        await self._written(lambda: self.file.forget(record.number))

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _expire(self) -> None:
        keep_s = self._settings.keep_s
        error = DeadlineExceeded(f"no full answer came within {keep_s:g} s")
        status = outcome_record(error)
        while True:
            dropped, ended = await self._written(lambda: self.file.expire(keep_s, status)) or (0, 0)
            if dropped or ended:
                logger.info("store: %d results dropped, %d samples given up", dropped, ended)
                self.metrics.drops["expired"].add(dropped)
                self._tell()
            await asyncio.sleep(min(_EXPIRE_S, keep_s))

    # --- reading ------------------------------------------------------------------------------------

    async def waiting(self, *, inputs: bool) -> AsyncIterator[StoredRecord]:
        """Those that wait for their full answer, the oldest first."""
        number, following = (
            0,
            partial(self.file.waiting, most=1 if inputs else _PAGE, inputs=inputs),
        )
        while page := await self._run(partial(following, number)):
            for record in page:
                yield record
            number = page[-1].number

    async def results(
        self, after: int, *, inputs: bool, follow: bool
    ) -> AsyncIterator[StoredRecord]:
        """The results behind a cursor; with follow for ever, those to come as well."""
        cursor, following = (
            after,
            partial(self.file.results, most=1 if inputs else _PAGE, inputs=inputs),
        )
        while True:
            news = self._news
            while page := await self._run(partial(following, cursor)):
                for record in page:
                    yield record
                cursor = page[-1].cursor
            if not follow:
                return
            await news.wait()

    async def release(self, upto: int) -> int:
        """Drop the results up to a cursor; how many that were."""
        count = await self._run(lambda: self.file.release(upto))
        self.metrics.drops["released"].add(count)
        return count
