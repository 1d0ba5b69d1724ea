"""One caller's stream: samples in, results out in the order in which they are ready, several to a message.

requests --reader--> engine.begin()
                         |
responses <--writer--- results that are ready
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from typing import Any

from offramp.errors import InvalidInput, OfframpError, TierUnavailable
from offramp.rpc import Answer, NamesSaid, NamesTold, SampleId
from offramp.rpc.exchange import Direction
from offramp.rpc.messages import (
    GRPC_PREFIX_BYTES,
    id_from_proto,
    in_messages,
    sample_from_proto,
    write_answer,
)
from offramp.rpc.status import status_of
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.engine import Engine
from offramp.serving.parsing import message_from
from offramp.serving.request import Request, outcome_of
from offramp.serving.settings import Limits
from offramp.serving.wakeup import Wakeup

logger = logging.getLogger(__name__)

_AT_ONCE = 32  # samples of one message, before the event loop is let go on with others

Read = Callable[
    [], Awaitable[Any]
]  # the bytes of the next pb.Request, or something else at the end


class Conversation:
    """What one stream, or one unary call, needs to remember: names on both sides and the samples under way.

    Callers that say nothing for long are many: what one takes is small.
    """

    __slots__ = (
        "_ending",
        "_engine",
        "_heard",
        "_is_stream",
        "_limits",
        "_ready",
        "_results",
        "_room",
        "_said",
        "_told",
        "_under_way",
        "_writing_since",
    )

    def __init__(self, engine: Engine, limits: Limits, *, is_stream: bool = True) -> None:
        self._engine, self._limits, self._is_stream = engine, limits, is_stream
        self._told, self._said = NamesTold(), NamesSaid()
        self._under_way: dict[SampleId, Request] = {}
        self._results: list[bytes] = []  # a pb.Response of each alone, with the names it brings
        self._ready = Wakeup()  # a result, or the end
        self._room = Wakeup()  # results were sent, so that more samples may be read
        self._ending = False
        self._heard = time.monotonic()  # when its caller last said something
        self._writing_since: float | None = None

    def end_when_answered(self) -> None:
        """Refuse new samples and let run() return as soon as what was accepted is answered."""
        self._ending = True
        self._ready.set()

    def is_idle(self, now: float) -> bool:
        """Whether nothing is under way, and its caller has said nothing whole for too long."""
        return not self._under_way and now - self._heard > self._limits.idle_s

    def is_stalled(self, now: float) -> bool:
        """Whether its caller has not taken a result for too long."""
        since = self._writing_since
        return since is not None and now - since > self._limits.idle_s

    async def run(self, read: Read, write: Any) -> None:
        """Serve a stream until its caller ends it, or until end_when_answered() and everything is answered.

        Raises InvalidInput for what concerns the whole stream: a message whose names make no sense.
        """
        reader = asyncio.create_task(self._read(read))
        try:
            first = pb.Response(
                credits=self._engine.most_in_flight,
                message_bytes=self._limits.message_bytes,
                idle_ms=round(self._limits.idle_s * 1e3),
            )
            await self._write(write, first.SerializeToString())
            while self._under_way or not self._ending:
                await self._ready.wait()
                await self._send(write)
            await self._send(write)
        finally:
            reader.cancel()
            self._cancel_all()  # the caller is gone, or there are none
            self._engine.unsent -= len(self._results)
            (end,) = await asyncio.gather(reader, return_exceptions=True)
        if isinstance(end, Exception):
            raise end

    async def answer_once(self, request: pb.Request, time_left_s: float | None) -> pb.Response:
        """The response to a unary call; its own deadline bounds every sample. Raises InvalidInput for bad names."""
        if time_left_s is not None:
            most_us = min(round(time_left_s * 1e6), 0xFFFFFFFF)
            for message in request.samples:
                given_us = message.time_left_us if message.HasField("time_left_us") else most_us
                message.time_left_us = min(given_us, most_us)
        self._count("up", request.ByteSize())
        try:
            await self._take(request)
            while self._under_way:
                await self._ready.wait()
        finally:
            self._cancel_all()
            self._engine.unsent -= len(self._results)
        data = b"".join(self._results)
        self._count("down", len(data))
        response: pb.Response = pb.Response.FromString(data)
        return response

    async def _read(self, read: Read) -> None:
        try:
            while isinstance(data := await read(), bytes):
                self._count("up", len(data))
                await self._take(message_from(pb.Request, data))
                del data  # which may be long until the next comes
        finally:
            self.end_when_answered()

    async def _take(self, request: pb.Request) -> None:
        """All that a message holds, a few at a time: however many there are, others have their turn between."""
        self._told.learn(request.names)
        now = self._heard = time.monotonic()
        # Of unary calls others may be under way that nobody has read yet.
        came_alone = self._is_stream and len(request.samples) == 1 and not request.cancels
        for count, one in enumerate(chain(request.samples, request.cancels), 1):
            if isinstance(one, pb.Sample):
                self._accept_or_refuse(one, now, came_alone)
            else:
                self._cancel(one)
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
                await self._has_room()
        await self._has_room()

    async def _has_room(self) -> None:
        """Return at once, unless the caller does not read its results."""
        while self._is_stream and len(self._results) > self._engine.most_in_flight:
            await self._room.wait()

    def _accept_or_refuse(self, message: pb.Sample, now: float, came_alone: bool) -> None:
        try:
            self._accept(message, now, came_alone)
        except OfframpError as exc:
            self._engine.metrics.count_result(outcome_of(exc))
            result = pb.Result(id=message.id, final=True, status=status_of(exc))
            self._push(pb.Response(results=[result]))

    def _cancel(self, wire_id: pb.SampleId) -> None:
        with contextlib.suppress(InvalidInput):  # nothing of that name is under way
            if found := self._under_way.pop(id_from_proto(wire_id, self._told), None):
                found.cancel()
                self._ready.set()

    def _accept(self, message: pb.Sample, now: float, came_alone: bool) -> None:
        if self._ending:
            raise TierUnavailable("unreachable", "this tier is shutting down")
        sample = sample_from_proto(
            message, self._told, now=now, default_time_left_s=self._limits.default_time_left_s
        )
        if sample.id in self._under_way:
            raise InvalidInput("id.sequence", f"{sample.id.sequence} is already under way")
        origin = message.id.origin  # a number: the message would hold all that came with it
        tell = None
        if self._engine.wants_early(sample):
            if not self._is_stream:
                text = "an early answer needs the stream; ask this tier there, or for `local`"
                raise InvalidInput("early", text)
            tell = partial(self._tell, origin, sample.id)
        deliver = partial(self._deliver, origin, sample.id)
        request = self._engine.begin(sample, deliver, tell, came_alone=came_alone)
        if not request.is_over:
            self._under_way[sample.id] = request

    def _cancel_all(self) -> None:
        for request in self._under_way.values():
            request.cancel()
        self._under_way.clear()

    def _tell(self, origin: int, sample_id: SampleId, answer: Answer) -> None:
        response = pb.Response()
        result = response.results.add()
        result.id.origin, result.id.sequence = origin, sample_id.sequence
        write_answer(answer, result.answer, self._said)
        self._push(response)

    def _deliver(self, origin: int, sample_id: SampleId, outcome: Answer | Exception) -> None:
        self._under_way.pop(sample_id, None)
        response = pb.Response()
        result = response.results.add(final=True)
        result.id.origin, result.id.sequence = origin, sample_id.sequence
        if isinstance(outcome, Exception):
            _write_error(outcome, result, sample_id)
        else:
            try:
                write_answer(outcome, result.answer, self._said)
            except Exception as exc:
                _write_error(exc, result, sample_id)
        self._push(response)

    def _push(self, response: pb.Response) -> None:
        response.names.extend(self._said.take_unsaid())
        self._results.append(response.SerializeToString())
        self._engine.unsent += 1
        self._ready.set()

    async def _send(self, write: Any) -> None:
        results, self._results = self._results, []
        try:
            for data, _ in in_messages(results, bytes, self._limits.message_bytes):
                await self._write(write, data)
        finally:
            self._engine.unsent -= len(results)
        self._room.set()

    async def _write(self, write: Any, data: bytes) -> None:
        self._count("down", len(data))
        self._writing_since = time.monotonic()
        await write(data)
        self._writing_since = None

    def _count(self, direction: Direction, size: int) -> None:
        self._engine.metrics.count_bytes("downstream", direction, size + GRPC_PREFIX_BYTES)


def _write_error(error: Exception, result: pb.Result, sample_id: SampleId) -> None:
    """In place of the answer, for they are alternatives."""
    if not isinstance(error, OfframpError):
        logger.error("sample %s failed", sample_id, exc_info=error)
    result.status.CopyFrom(status_of(error))
