"""The wire contract by hand: a caller that says exactly what a test tells it to, and a tier that does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from offramp.rpc import StreamOptions, TierStream
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

NAMES = (
    pb.Name(number=0, origin=pb.Origin(device="test", run=1)),
    pb.Name(number=0, network=""),
    pb.Name(number=0, policy=""),
)


def sample(sequence: int, image: NDArray[np.uint8] | None = None, **fields: Any) -> pb.Sample:
    """A sample of the origin, network and policy of NAMES, with 20 s left, of an image or of the payload given."""
    message = pb.Sample(id=pb.SampleId(sequence=sequence), **{"time_left_us": 20_000_000, **fields})
    if image is not None:
        message.payload.tensors.tensors.add(data=image.tobytes())
    return message


def tensors(*data: bytes, **fields: Any) -> pb.Payload:
    """A payload of tensors; dtype or shape are those of each of them."""
    return pb.Payload(tensors=pb.Tensors(tensors=[pb.Tensor(data=d, **fields) for d in data]))


class Caller:
    """One stream to a tier; results are kept by sequence."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = tier_pb2_grpc.TierStub(channel)  # type: ignore[no-untyped-call]
        self.call: Any = None
        self.results: dict[int, pb.Result] = {}
        self.names: list[pb.Name] = []
        self.messages: list[int] = []  # how many results each response brought

    async def open(self) -> int:
        """Open the stream and say NAMES; returns the credits."""
        self.call = self.stub.Stream(wait_for_ready=True)
        first = await self.call.read()
        await self.call.write(pb.Request(names=NAMES))
        return int(first.credits)

    async def say(self, *samples: pb.Sample, **fields: Any) -> None:
        """One message."""
        await self.call.write(pb.Request(samples=samples, **fields))

    async def result(self, sequence: int) -> pb.Result:
        """The result of a sample, once it is there."""
        while sequence not in self.results:
            response = await self.call.read()
            if not isinstance(response, pb.Response):
                raise EOFError(f"the stream ended: {await self.call.code()}")
            self.messages.append(len(response.results))
            self.names.extend(response.names)
            self.results.update({r.id.sequence: r for r in response.results})
        return self.results[sequence]

    async def status(self, sequence: int) -> tuple[str, str]:
        """Code and field of a sample's status."""
        status = (await self.result(sequence)).status
        codes = {code.value[0]: code.name for code in grpc.StatusCode}
        return codes[status.code], status.field

    async def ask(self, *samples: pb.Sample) -> list[pb.Result]:
        """The results of samples said in one message."""
        await self.say(*samples)
        return [await self.result(one.id.sequence) for one in samples]


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    """A caller with an open stream to the tier at an address."""
    async with grpc.aio.insecure_channel(address) as channel:
        caller = Caller(channel)
        await caller.open()
        yield caller


@asynccontextmanager
async def streaming(
    address: str, options: StreamOptions | None = None, **more: Any
) -> AsyncIterator[TierStream]:
    """An open stream to the tier at an address, as the tier below has one."""
    stream = TierStream(address, options, **more)
    stream.start()
    try:
        await stream.wait_connected(20)
        yield stream
    finally:
        await stream.close()


def refusal(code: grpc.StatusCode, field: str = "", message: str = "no") -> pb.Status:
    """A status as a tier would say it."""
    return pb.Status(code=code.value[0], field=field, message=message)


def answer(label: int = 2, exit_index: int = 2) -> pb.Answer:
    """An answer of the cloud, of the names 0."""
    chances = [0.0, 0.0, 0.0]
    chances[label] = 1.0
    return pb.Answer(
        label=label, probabilities=chances, exit=exit_index, tier=pb.TIER_NAME_CLOUD, network=0
    )


class ScriptedTier(tier_pb2_grpc.TierServicer):
    """A tier that answers each sample as its script says, keeps what it was sent, and says what it is told to."""

    def __init__(
        self,
        script: Callable[[pb.Sample], pb.Answer | pb.Status | None],
        *,
        credits_: int = 16,
        message_bytes: int = 0,
    ) -> None:
        self.script, self.credits, self.message_bytes = script, credits_, message_bytes
        self.requests: list[pb.Request] = []
        self.opened: list[float] = []  # when each stream was
        self.is_open = True
        self.to_say: asyncio.Queue[pb.Response | None] = asyncio.Queue()

    @property
    def streams(self) -> int:
        """How many streams there were so far."""
        return len(self.opened)

    @property
    def samples(self) -> list[pb.Sample]:
        """All samples so far."""
        return [one for request in self.requests for one in request.samples]

    @property
    def cancels(self) -> list[int]:
        """The sequences of all cancels so far."""
        return [one.sequence for request in self.requests for one in request.cancels]

    async def Stream(  # noqa: N802
        self, requests: AsyncIterator[pb.Request], context: Any
    ) -> None:
        """Serve one stream until None is to be said."""
        self.opened.append(time.monotonic())
        if not self.is_open:
            return
        self.to_say = asyncio.Queue()
        names = [pb.Name(number=0, network="f" * 64), pb.Name(number=0, policy="e" * 64)]
        limits = {"credits": self.credits, "message_bytes": self.message_bytes}
        await context.write(pb.Response(names=names, **limits))
        reader = asyncio.create_task(self._read(requests))
        reader.add_done_callback(lambda _: self.to_say.put_nowait(None))
        try:
            while (response := await self.to_say.get()) is not None:
                await context.write(response)
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.Request]) -> None:
        async for request in requests:
            self.requests.append(request)
            for one in request.samples:
                outcome = self.script(one)
                if isinstance(outcome, pb.Answer):
                    self.say(pb.Result(id=one.id, final=True, answer=outcome))
                elif outcome is not None:
                    self.say(pb.Result(id=one.id, final=True, status=outcome))

    def say(self, *results: pb.Result) -> None:
        """Send results on the stream that is open."""
        self.to_say.put_nowait(pb.Response(results=results))

    def answer(self, one: pb.Sample) -> None:
        """Answer a sample now."""
        self.say(pb.Result(id=one.id, final=True, answer=answer()))

    def hang_up(self) -> None:
        """End the stream that is open."""
        self.to_say.put_nowait(None)


@asynccontextmanager
async def scripted(tier: ScriptedTier, port: int = 0) -> AsyncIterator[str]:
    """The address of a scripted tier that listens, on any free port or the one given."""
    server = grpc.aio.server()
    tier_pb2_grpc.add_TierServicer_to_server(tier, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
