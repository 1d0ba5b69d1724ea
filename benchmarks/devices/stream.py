"""One device's stream to a tier, at the level of messages.

    send() -> unsent --writer, whatever waits in one message--> tier
    hear() <--reader, one result after the other--------------- tier

It counts no credits, has no timers and asks for nothing again: whoever drives it sees results, and what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

Hear = Callable[[int, Any], None]  # a device's number, and one pb.Result
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share a connection
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 20),
    ("grpc.max_receive_message_length", 16 * 2**20),
)
_CONNECTED_S = 30.0


@dataclass(frozen=True, slots=True)
class Form:
    """What all samples are: the boundary that they are at, the policy's name, and a pool of payloads of one tensor.

    together: the most samples in a message, of those that wait when the stream is free.
    """

    boundary: int
    policy: str
    payloads: Sequence[bytes]
    together: int = 256


class _Unsent(NamedTuple):
    sequence: int
    deadline: float


class DeviceStream:
    """A connection and a stream of its own. `hear` is called once a result; messages are counted in both directions."""

    def __init__(self, address: str, number: int, form: Form, hear: Hear) -> None:
        self._number, self._form, self._hear = number, form, hear
        self._payloads = [
            pb.Payload(tensors=pb.Tensors(tensors=[pb.Tensor(data=data)])) for data in form.payloads
        ]
        self._channel = grpc.aio.insecure_channel(address, _OPTIONS)
        self._unsent: list[_Unsent] = []
        self._wake = asyncio.Event()
        self._call: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self.messages_up = self.messages_down = 0

    async def open(self) -> None:
        """Connect, within 30 s, and say the names that samples need. Raises TimeoutError, or what gRPC raises."""
        stub = tier_pb2_grpc.TierStub(self._channel)  # type: ignore[no-untyped-call]
        self._call = stub.Stream(wait_for_ready=True)
        await asyncio.wait_for(self._call.read(), _CONNECTED_S)  # the credits
        origin = pb.Origin(device=f"device-{self._number}", run=1)
        names = [
            pb.Name(number=0, origin=origin),
            pb.Name(number=0, network=""),
            pb.Name(number=0, policy=self._form.policy),
        ]
        await self._call.write(pb.Request(names=names))
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What ends only when the stream does."""
        return self._tasks

    def send(self, sequence: int, deadline: float) -> None:
        """One sample more, as soon as the writer can; `deadline` is a time of time.monotonic()."""
        self._unsent.append(_Unsent(sequence, deadline))
        self._wake.set()

    async def close(self) -> None:
        """End it, whatever is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    def _sample(self, one: _Unsent, now: float) -> pb.Sample:
        return pb.Sample(
            id=pb.SampleId(origin=0, sequence=one.sequence),
            boundary=self._form.boundary,
            time_left_us=max(0, int((one.deadline - now) * 1e6)),
            payload=self._payloads[one.sequence % len(self._payloads)],
        )

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            unsent, self._unsent = self._unsent, []
            for start in range(0, len(unsent), self._form.together):
                now = time.monotonic()
                together = unsent[start : start + self._form.together]
                self.messages_up += 1
                await self._call.write(pb.Request(samples=[self._sample(a, now) for a in together]))

    async def _read(self) -> None:
        while isinstance(response := await self._call.read(), pb.Response):
            self.messages_down += 1
            for result in response.results:
                self._hear(self._number, result)
