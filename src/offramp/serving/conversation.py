"""One caller's stream: samples in, results out in the order in which they are ready, several to a message.

requests --reader--> a task a sample --> engine
                            |
responses <--writer--- results that are ready
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from offramp.errors import InvalidInput, OfframpError, TierUnavailable
from offramp.rpc import NamesSaid, NamesTold, Sample, SampleId
from offramp.rpc.messages import (
    GRPC_PREFIX_BYTES,
    answer_to_proto,
    id_from_proto,
    in_messages,
    names_bytes,
    sample_from_proto,
)
from offramp.rpc.status import status_of
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.engine import Engine, outcome_of
from offramp.serving.settings import Limits

logger = logging.getLogger(__name__)


class _Part(NamedTuple):
    """One result of a message, and the names that it is the first to use."""

    result: pb.Result
    names: list[pb.Name]


class Conversation:
    """What one stream, or one unary call, needs to remember: names on both sides and the samples under way."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine, self._limits = engine, limits
        self._told, self._said = NamesTold(), NamesSaid()
        self._tasks: dict[SampleId, asyncio.Task[None]] = {}
        self._results: list[_Part] = []
        self._ready = asyncio.Event()  # a result, a sample less under way, or the end
        self._room = asyncio.Event()  # results were sent, so that more samples may be read
        self._ending = False

    def end_when_answered(self) -> None:
        """Refuse new samples and let run() return as soon as what was accepted is answered."""
        self._ending = True
        self._ready.set()

    async def run(self, requests: AsyncIterator[pb.Request], write: Any) -> None:
        """Serve a stream until its caller ends it, or until end_when_answered() and everything is answered.

        Raises InvalidInput for what concerns the whole stream: a message whose names make no sense.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            first = pb.Response(
                credits=self._engine.most_in_flight, message_bytes=self._limits.message_bytes
            )
            await write(self._counted(first))
            while self._tasks or not self._ending:
                await self._ready.wait()
                self._ready.clear()
                await self._send(write)
            await self._send(write)
        finally:
            reader.cancel()
            self._cancel_all()  # the caller is gone, or there are none
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
        try:
            self._take(request)
            while self._tasks:
                await asyncio.wait(list(self._tasks.values()))
        finally:
            self._cancel_all()
        return self._counted(_response(self._results))

    async def _read(self, requests: AsyncIterator[pb.Request]) -> None:
        try:
            async for request in requests:
                self._take(request)
                while len(self._results) > self._engine.most_in_flight:
                    self._room.clear()  # a caller that does not read its results
                    await self._room.wait()
        finally:
            self.end_when_answered()

    def _take(self, request: pb.Request) -> None:
        self._engine.metrics.count_bytes("downstream", "up", request.ByteSize() + GRPC_PREFIX_BYTES)
        self._told.learn(request.names)
        now = time.monotonic()
        for message in request.samples:
            try:
                self._accept(message, now)
            except OfframpError as exc:
                self._engine.metrics.count_result(outcome_of(exc))
                self._push(pb.Result(id=message.id, final=True, status=status_of(exc)))
        for cancel in request.cancels:
            with contextlib.suppress(InvalidInput):  # nothing of that name is under way
                if found := self._tasks.get(id_from_proto(cancel, self._told)):
                    found.cancel()

    def _accept(self, message: pb.Sample, now: float) -> None:
        if self._ending:
            raise TierUnavailable("unreachable", "this tier is shutting down")
        sample = sample_from_proto(
            message, self._told, now=now, default_time_left_s=self._limits.default_time_left_s
        )
        if sample.id in self._tasks:
            raise InvalidInput("id.sequence", f"{sample.id.sequence} is already under way")
        task = asyncio.create_task(self._answer(message.id, sample))
        self._tasks[sample.id] = task
        # Not at the end of _answer, which never begins where the cancel comes in the same message.
        task.add_done_callback(partial(self._forget, sample.id))

    def _forget(self, sample_id: SampleId, _task: asyncio.Task[None]) -> None:
        del self._tasks[sample_id]
        self._ready.set()

    def _cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _answer(self, wire_id: pb.SampleId, sample: Sample) -> None:
        result = pb.Result(id=wire_id, final=True)
        try:
            answer = await self._engine.answer(sample)
            result.answer.CopyFrom(answer_to_proto(answer, self._said))
        except OfframpError as exc:
            result.status.CopyFrom(status_of(exc))
        except Exception as exc:
            logger.exception("sample %s of %s failed", sample.id.sequence, sample.id.origin.device)
            result.status.CopyFrom(status_of(exc))
        self._push(result)

    def _push(self, result: pb.Result) -> None:
        self._results.append(_Part(result, self._said.take_unsaid()))
        self._ready.set()

    async def _send(self, write: Any) -> None:
        results, self._results = self._results, []
        for together in in_messages(results, _size_of, self._limits.message_bytes):
            await write(self._counted(_response(together)))
        self._room.set()

    def _counted(self, response: pb.Response) -> pb.Response:
        size = response.ByteSize() + GRPC_PREFIX_BYTES
        self._engine.metrics.count_bytes("downstream", "down", size)
        return response


def _response(parts: Sequence[_Part]) -> pb.Response:
    names = [name for part in parts for name in part.names]
    return pb.Response(results=[part.result for part in parts], names=names)


def _size_of(part: _Part) -> int:
    size: int = part.result.ByteSize()
    return size + names_bytes(part.names)
