"""Asks again about what was answered degraded, for the full answer, while the next tier has room to spare.

    Store.next_due() -> Engine.begin() -> answered in full           -> Store.finish()
                                       -> degraded again, or refused -> Store.put_off(), longer each time
                                       -> can never be asked         -> Store.finish() with the error

A kept sample is asked from its input on, through the same engine as any other: it needs no network but the one that the
tiers hold then, so that a change of bundle between its two answers costs it nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from google.protobuf.message import DecodeError

from offramp.errors import BundleMismatch, InvalidInput, OfframpError
from offramp.rpc import Answer
from offramp.rpc.stored import StoredRecord, sample_of
from offramp.serving.engine import Engine
from offramp.serving.request import Request
from offramp.serving.store import FIRST_S, Store
from offramp.serving.uplink import Uplink

logger = logging.getLogger(__name__)
_LOOK_S = 0.2  # how often room and what is due are looked at while something waits
_MOST_UNDER_WAY = 32
_MOST_PAUSE_S = 30.0  # of all, after one in vain after the other
_MOST_PUT_OFF_S = 300.0  # of one


class Forwarder:
    """Start it in a running event loop; close it before the engine ends.

    rate: so many are asked in a second, at most; time_left_s: the time that each has for its answer.
    """

    def __init__(
        self, store: Store, engine: Engine, uplink: Uplink, *, rate: float, time_left_s: float
    ) -> None:
        self._store, self._engine, self._uplink = store, engine, uplink
        self._rate, self._time_left_s = rate, time_left_s
        self._pause_s, self._not_before = 0.0, 0.0
        self._asked: dict[int, Request | None] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._running = asyncio.create_task(self._run(), name="forwarding")

    async def close(self) -> None:
        """Ask no more. What has its answer is kept with it; the others wait for the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for request in list(self._asked.values()):
            if request is not None:
                request.cancel()
        if self._settling:
            await asyncio.wait(self._settling)

    async def _run(self) -> None:
        while True:
            await self._store.something_waits()
            try:
                asked = self._may_ask and await self._ask_next()
            except Exception:  # a bug, which must not end it
                logger.exception("a kept sample could not be asked")
                asked = False
            await asyncio.sleep(1.0 / self._rate if asked else _LOOK_S)

    async def _ask_next(self) -> bool:
        record = await self._store.next_due(set(self._asked))
        if record is not None:
            self._ask(record)
        return record is not None

    @property
    def _may_ask(self) -> bool:
        """Whether no caller has to wait for it: at least half of this tier and of the next one is free."""
        return (
            len(self._asked) < _MOST_UNDER_WAY
            and time.monotonic() >= self._not_before
            and 2 * self._engine.in_flight < self._engine.most_in_flight
            and self._uplink.is_at_ease
        )

    def _ask(self, record: StoredRecord) -> None:
        self._asked[record.number] = None
        try:
            sample = sample_of(record, now=time.monotonic(), time_left_s=self._time_left_s)
        except (InvalidInput, DecodeError, ValueError) as exc:
            # A disk that does not keep what it was given.
            logger.warning("a stored sample makes no sense any more, and is forgotten: %s", exc)
            self._follow(record, self._store.forget(record))
            return
        self._store.resent.add(sample.id)

        def heard(outcome: Answer | Exception) -> None:
            self._store.resent.discard(sample.id)
            self._follow(record, self._settle(record, outcome))

        request = self._engine.begin(sample, heard)
        if not request.is_over:
            self._asked[record.number] = request

    def _follow(self, record: StoredRecord, settling: Coroutine[Any, Any, None]) -> None:
        """Until that is written, it is not asked again."""
        task = asyncio.create_task(settling)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        task.add_done_callback(lambda _: self._asked.pop(record.number, None))

    async def _settle(self, record: StoredRecord, outcome: Answer | Exception) -> None:
        resends = self._store.metrics.resends
        is_full = isinstance(outcome, Answer) and outcome.degraded is None
        if is_full or _is_for_good(outcome):
            resends["answered" if is_full else "failed"].add()
            if not is_full:
                logger.warning("a kept sample will have no full answer: %s", outcome)
            if await self._store.finish(record, outcome):
                self._pause_s = 0.0
            else:
                self._pause()  # it will have to be asked again
            return
        if not isinstance(outcome, (Answer, OfframpError)):
            logger.error("a kept sample failed", exc_info=outcome)
        resends["in_vain"].add()
        self._pause()
        put_off_s = FIRST_S * 2.0 ** min(record.tries, 10)
        await self._store.put_off(record, min(put_off_s, _MOST_PUT_OFF_S))

    def _pause(self) -> None:
        """Let all wait for a while, longer each time; what else was under way then counts as once."""
        now = time.monotonic()
        if now >= self._not_before:
            self._pause_s = min(max(2 * self._pause_s, FIRST_S), _MOST_PAUSE_S)
            self._not_before = now + self._pause_s


def _is_for_good(outcome: Answer | Exception) -> bool:
    """Whether asking again is of no use: this tier itself does not take the sample any more.

    What the next tier refuses is degraded again, as mismatch: there, another bundle may be on its way. An id that is
    under way is that of a hop that has not been cancelled yet.
    """
    if isinstance(outcome, InvalidInput):
        return outcome.field != "id.sequence"
    return isinstance(outcome, BundleMismatch)
