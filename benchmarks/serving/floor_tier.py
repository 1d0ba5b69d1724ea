"""The floor of W2: three tiers as a careful engineer writes them by hand, streams of bare bytes over grpc.aio.

    bytes: number, tensor -> session.run on the event loop -> leaves: number, exit, logits
                                                         `-> number, codes: to the next tier, its answers passed back

One message a sample each way; no protobuf, deadlines, credits, metrics, batches or anything else that a deployment
needs: what a sample costs here is what gRPC, Python and the network cost. `python -m benchmarks.serving.floor_tier`
with the environment of `peers/stage.py` and PORT.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from benchmarks.serving.peers.stage import GOES_ON, Stage

SERVICE, METHOD = "benchmark.Tier", "Stream"
NUMBER_BYTES = 4  # before every message: which of its stream it is, little-endian


class Tier:
    """One stage, and a stream to the next tier where there is one."""

    def __init__(self, following: str) -> None:
        self._stage = Stage()
        self._following = following
        self._call: Any = None
        self._asked: dict[bytes, tuple[Any, bytes]] = {}  # whose context, and its own number
        self._count = 0
        self._up, self._down = asyncio.Lock(), asyncio.Lock()  # one write at a time on a stream

    async def connect(self) -> None:
        """Open the stream to the next tier."""
        if self._following:
            channel = grpc.aio.insecure_channel(
                self._following, options=[("grpc.enable_http_proxy", 0)]
            )
            self._call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(wait_for_ready=True)
            self._answers = asyncio.create_task(self._pass_back())

    async def _pass_back(self) -> None:
        while isinstance(message := await self._call.read(), bytes):
            context, number = self._asked.pop(message[:NUMBER_BYTES])
            with suppress(grpc.aio.UsageError):  # its caller has left
                await self._answer(context, number + message[NUMBER_BYTES:])

    async def _answer(self, context: Any, message: bytes) -> None:
        async with self._down:
            await context.write(message)

    async def serve(self, _requests: Any, context: Any) -> None:
        """Answer one caller until it ends its stream."""
        await context.send_initial_metadata(())
        while isinstance(message := await context.read(), bytes):
            number, tensor = message[:NUMBER_BYTES], message[NUMBER_BYTES:]
            (outcome,) = self._stage.run(self._stage.tensor_of(tensor)[None])
            if outcome.exit == GOES_ON:
                self._count += 1
                own = self._count.to_bytes(NUMBER_BYTES, "little")
                self._asked[own] = context, number
                async with self._up:
                    await self._call.write(own + outcome.tensor.tobytes())
            else:
                await self._answer(context, number + outcome.to_bytes())


async def main() -> None:
    """Serve until SIGTERM."""
    tier = Tier(os.environ.get("NEXT", ""))
    server = grpc.aio.server()
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(tier.serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    await tier.connect()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0.1)


if __name__ == "__main__":
    asyncio.run(main())
