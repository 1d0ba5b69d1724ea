"""What happens on one open stream to a tier, until it breaks.

Pending.take() --writer, whatever waits in one message--> tier
Pending.settle() <--reader, results as they are ready-----+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from offramp.errors import InvalidInput, OfframpError, TierUnavailable
from offramp.rpc.messages import (
    GRPC_PREFIX_BYTES,
    Answer,
    SampleId,
    answer_from_proto,
    id_to_proto,
    in_messages,
    names_bytes,
    sample_to_proto,
)
from offramp.rpc.names import NamesSaid, NamesTold
from offramp.rpc.pending import Asked, Pending
from offramp.rpc.status import error_of
from offramp.rpc.v1 import tier_pb2 as pb

Direction = Literal["up", "down"]
CountBytes = Callable[[Direction, int], None]
_LAST_WORDS_S = 1.0  # from a failed write to the status of the stream, which says why


class _Part(NamedTuple):
    """One sample of a message, and the names that it is the first to use."""

    asked: Asked
    message: pb.Sample
    names: list[pb.Name]


class Exchange:
    """The names, the writer and the reader of one gRPC stream call."""

    def __init__(
        self, call: Any, pending: Pending, *, message_bytes: int, count_bytes: CountBytes
    ) -> None:
        self._call, self._pending = call, pending
        self._message_bytes, self._count_bytes = message_bytes, count_bytes
        self._told, self._said = NamesTold(), NamesSaid()

    async def run(self, first: pb.Response) -> bool:
        """Return once the stream has ended: whether by this side, whose names are used up, to go on with another.

        Raises AioRpcError, or InvalidInput for nonsense from the tier.
        """
        self._take(first)
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([reader], timeout=_LAST_WORDS_S)
        finally:
            reader.cancel()
            writer.cancel()
            self._call.cancel()
            # Unlike suppressing CancelledError around each, this lets a cancellation of our own through.
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return ends[1] is None  # only a full table lets the writer end by itself

    async def _read(self) -> None:
        while isinstance(response := await self._call.read(), pb.Response):
            self._take(response)

    async def _write(self) -> None:
        while not self._said.is_full:
            asked, forgotten = await self._pending.take()
            for group in in_messages(self._parts(asked), _size_of, self._message_bytes):
                message = pb.Request(
                    names=[name for part in group for name in part.names],
                    samples=[part.message for part in group],
                )
                await self._send(message, [part.asked for part in group])
            cancels = (id_to_proto(sample_id, self._said) for sample_id in forgotten)
            for ids in in_messages(cancels, pb.SampleId.ByteSize, self._message_bytes):
                await self._send(pb.Request(cancels=ids))
        await self._pending.all_answered()
        await self._call.done_writing()

    def _parts(self, asked: Iterable[Asked]) -> Iterator[_Part]:
        """Their messages, each made when its turn has come, for a write may have to wait for the peer."""
        waiting = iter(asked)
        for one in waiting:
            if one.reply.done():
                continue  # given up meanwhile
            if self._said.is_full:
                self._pending.put_back([one, *waiting])
                return
            message = sample_to_proto(one.sample, self._said, one.deadline - time.monotonic())
            yield _Part(one, message, self._said.take_unsaid())

    async def _send(self, message: pb.Request, asked: Sequence[Asked] = ()) -> None:
        size = message.ByteSize() + GRPC_PREFIX_BYTES
        self._count_bytes("up", size)
        for one in asked:  # before the write, for a reply may be there before it returns
            one.bytes_up = size / len(asked)
        await self._call.write(message)

    def _take(self, response: pb.Response) -> None:
        self._told.learn(response.names)
        size = response.ByteSize() + GRPC_PREFIX_BYTES
        self._count_bytes("down", size)
        for result in response.results:
            if not result.final:
                continue  # an early answer; nobody here asks for one yet
            sample_id = SampleId(self._said.origin(result.id.origin), result.id.sequence)
            self._pending.settle(sample_id, self._outcome(result), size / len(response.results))

    def _outcome(self, result: pb.Result) -> Answer | OfframpError:
        if result.WhichOneof("outcome") != "answer":
            return error_of(result.status)
        try:
            return answer_from_proto(result.answer, self._told)
        except InvalidInput as exc:
            return TierUnavailable("mismatch", f"its answer makes no sense: {exc}")


def _size_of(part: _Part) -> int:
    size: int = part.message.ByteSize()
    return size + names_bytes(part.names)
