"""What happens on one open stream to a tier, until it breaks.

Pending.take() --writer, whatever waits in one message--> tier
Pending.settle() <--reader, results as they are ready-----+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from google.protobuf.message import DecodeError

from offramp.errors import InvalidInput, OfframpError, TierUnavailable
from offramp.rpc.messages import (
    GRPC_PREFIX_BYTES,
    Answer,
    SampleId,
    answer_from_proto,
    id_to_proto,
    in_messages,
    write_sample,
)
from offramp.rpc.names import NamesSaid, NamesTold
from offramp.rpc.pending import Asked, Pending
from offramp.rpc.status import error_of
from offramp.rpc.v1 import tier_pb2 as pb

Direction = Literal["up", "down"]
CountBytes = Callable[[Direction, int], None]
_SIGNS = 3  # of life in the time after which a tier gives up a silent stream
_LAST_WORDS_S = 1.0  # from a failed write to the status of the stream, which says why


class _Part(NamedTuple):
    """One sample, and the pb.Request of it alone, with the names that it is the first to use."""

    asked: Asked
    request: bytes


class Exchange:
    """The names, the writer and the reader of one gRPC stream call."""

    def __init__(
        self, call: Any, pending: Pending, *, message_bytes: int, count_bytes: CountBytes
    ) -> None:
        self._call, self._pending = call, pending
        self._message_bytes, self._count_bytes = message_bytes, count_bytes
        self._told, self._said = NamesTold(), NamesSaid()
        self._messages = 0  # sent so far

    async def run(self, first: bytes) -> bool:
        """Return once the stream has ended: whether by this side, whose names are used up, to go on with another.

        first: the pb.Response that opened it.

        Raises AioRpcError, or InvalidInput for nonsense from the tier.
        """
        idle_s = self._take(first).idle_ms / 1e3
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        staying = asyncio.create_task(self._stay(idle_s / _SIGNS)) if idle_s else None
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([reader], timeout=_LAST_WORDS_S)
        finally:
            reader.cancel()
            writer.cancel()
            if staying is not None:
                staying.cancel()
            self._call.cancel()
            # Unlike suppressing CancelledError around each, this lets a cancellation of our own through.
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return ends[1] is None  # only a full table lets the writer end by itself

    async def _read(self) -> None:
        while isinstance(data := await self._call.read(), bytes):
            self._take(data)

    async def _stay(self, every_s: float) -> None:
        """Let the tier hear of this side now and then, so that it does not end the stream."""
        while True:
            before = self._messages
            await asyncio.sleep(every_s)
            if self._messages == before:
                self._pending.nudge()

    async def _write(self) -> None:
        while not self._said.is_full:
            # Of its own, so that nothing of it is held while there is nothing to say.
            await self._say(*await self._pending.take())
        await self._pending.all_answered()
        await self._call.done_writing()

    async def _say(self, asked: Sequence[Asked], forgotten: Sequence[SampleId]) -> None:
        if not (asked or forgotten):
            await self._send(b"")  # an empty request: still here
        for data, parts in in_messages(self._parts(asked), _request_of, self._message_bytes):
            await self._send(data, [part.asked for part in parts])
        cancels = (_cancel(id_to_proto(one, self._said)) for one in forgotten)
        for data, _ in in_messages(cancels, bytes, self._message_bytes):
            await self._send(data)

    def _parts(self, asked: Iterable[Asked]) -> Iterator[_Part]:
        """Their messages, each made when its turn has come, for a write may have to wait for the peer."""
        waiting = iter(asked)
        for one in waiting:
            if one.is_over:
                continue  # given up meanwhile
            if self._said.is_full:
                self._pending.put_back([one, *waiting])
                return
            request = pb.Request()
            left_s = one.deadline - time.monotonic()
            write_sample(one.sample, request.samples.add(), self._said, left_s)
            request.names.extend(self._said.take_unsaid())
            yield _Part(one, request.SerializeToString())

    async def _send(self, data: bytes, asked: Sequence[Asked] = ()) -> None:
        size = len(data) + GRPC_PREFIX_BYTES
        self._count_bytes("up", size)
        self._messages += 1
        for one in asked:  # before the write, for a reply may be there before it returns
            one.bytes_up = size / len(asked)
        await self._call.write(data)

    def _take(self, data: bytes) -> pb.Response:
        size = len(data) + GRPC_PREFIX_BYTES
        self._count_bytes("down", size)
        response = response_from(data)
        self._told.learn(response.names)
        for result in response.results:
            sample_id = SampleId(self._said.origin(result.id.origin), result.id.sequence)
            outcome, share = self._outcome(result), size / len(response.results)
            if result.final:
                self._pending.settle(sample_id, outcome, share)
            elif isinstance(outcome, Answer):
                self._pending.tell(sample_id, outcome, share)
        return response

    def _outcome(self, result: pb.Result) -> Answer | OfframpError:
        if result.WhichOneof("outcome") != "answer":
            return error_of(result.status)
        try:
            return answer_from_proto(result.answer, self._told)
        except InvalidInput as exc:
            return TierUnavailable("mismatch", f"its answer makes no sense: {exc}")


def _request_of(part: _Part) -> bytes:
    return part.request


def _cancel(sample_id: pb.SampleId) -> bytes:
    data: bytes = pb.Request(cancels=[sample_id]).SerializeToString()
    return data


def response_from(data: bytes) -> pb.Response:
    """The message of those bytes. Raises InvalidInput where they are none."""
    try:
        response: pb.Response = pb.Response.FromString(data)
    except DecodeError:
        raise InvalidInput("response", "its bytes are not a message of this protocol") from None
    return response
