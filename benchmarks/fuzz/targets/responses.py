"""What a tier above may say on a stream, to one that has asked it for four samples.

Whatever it is, each asker hears once: an answer or an error of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from benchmarks.fuzz.complaints import complaining
from offramp.errors import InvalidInput, OfframpError
from offramp.rpc.exchange import Exchange
from offramp.rpc.messages import Sample, SampleId
from offramp.rpc.names import Origin
from offramp.rpc.payload import TensorBytes
from offramp.rpc.pending import Pending, Reply
from offramp.rpc.v1 import tier_pb2 as pb

MESSAGE, BETWEEN, MOST_BYTES = pb.Response, b"\xde\xad\xbe\xef", 2048
DICTIONARY = ()
_ASKED, _LEFT_S = 4, 60.0


def seeds() -> list[bytes]:
    """Answers, statuses of every code, early ones, unknown ids, numbers that make no sense."""
    names = [pb.Name(network="f" * 64), pb.Name(policy="e" * 64)]
    legs = [pb.Leg(tier=tier, queued_us=9, computed_us=8, batch=2, bytes_up=1.5) for tier in (1, 3)]
    answer = pb.Answer(label=1, probabilities=[0.1, 0.9], exit=2, tier=3, degraded=1, trail=legs)

    def result(sequence: int, **more: object) -> pb.Result:
        return pb.Result(id=pb.SampleId(sequence=sequence), final=True, **more)

    first = pb.Response(names=names, credits=16, message_bytes=4096)
    refusals = [
        result(code % _ASKED, status=pb.Status(code=code, field="f", message="m"))
        for code in range(18)
    ]
    odd = [
        pb.Answer(label=7, probabilities=[1.0]),
        pb.Answer(label=0, probabilities=[float("nan")]),
    ]
    streams = [
        [first, pb.Response(results=[result(0, answer=answer), result(1, answer=answer)])],
        *([first, pb.Response(results=[one])] for one in refusals),
        [first, pb.Response(results=[pb.Result(answer=answer), result(99, answer=answer)])],
        [first, pb.Response(results=[result(k, answer=one) for k, one in enumerate(odd)])],
        [first, pb.Response(results=[result(2)])],
    ]
    return [BETWEEN.join(m.SerializeToString() for m in stream) for stream in streams]


class _Call:
    """A stream call whose tier says what is in an input, once it has been asked."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts, self._asked = iter(parts), asyncio.Event()

    async def read(self) -> bytes | None:
        """The next message."""
        await self._asked.wait()
        return next(self._parts, None)

    async def write(self, _data: bytes) -> None:
        """What the tier is asked."""
        self._asked.set()

    async def done_writing(self) -> None:
        """No more is asked."""

    def cancel(self) -> None:
        """Nobody listens any more."""


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """A stream for each input."""
    samples = [
        Sample(
            id=SampleId(Origin("f", 1), k),
            boundary=1,
            network="f" * 64,
            policy="e" * 64,
            deadline=0.0,
            payload=(TensorBytes(b"codes"),),
        )
        for k in range(_ASKED)
    ]

    async def exchange(data: bytes) -> None:
        pending, heard = Pending(), [list[Reply | OfframpError]() for _ in samples]
        until = asyncio.get_running_loop().time() + _LEFT_S
        for sample, mine in zip(samples, heard, strict=True):
            pending.add(sample, until, _LEFT_S, mine.append)
        first, *rest = data.split(BETWEEN)
        call = _Call(rest)
        stream = Exchange(call, pending, message_bytes=4096, count_bytes=lambda *_: None)
        with suppress(InvalidInput):
            await stream.run(first)
        pending.fail_all("unreachable", "the stream has ended")
        if any(len(mine) != 1 for mine in heard):
            raise AssertionError(f"askers heard {[len(mine) for mine in heard]} times")

    with complaining() as loop:
        yield lambda data: loop.run(exchange(data))
