"""A bare gRPC call of so many bytes: what a hop cannot be under.

    python -m benchmarks.serving.echo serve PORT             answers every call with as many bytes as an answer has
    python -m benchmarks.serving.echo ask PORT BYTES COUNT   prints the median of COUNT calls, one after another, in ms

gRPC for asyncio on both sides, a unary call, bytes without any message around them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from statistics import median
from typing import Any

import grpc
import grpc.aio

from benchmarks.serving.clients.client import CHANNEL, TIMEOUT_S
from benchmarks.serving.running import Command, free_port, running

_SERVICE, _METHOD = "benchmark.Echo", "Say"
_ANSWER = bytes(96)  # about what an answer of ten classes takes
_WARM_UP, _CALLS = 200, 1000


async def _say(_request: bytes, _context: Any) -> bytes:
    return _ANSWER


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    handlers = {_METHOD: grpc.unary_unary_rpc_method_handler(_say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0.1)


async def ask(port: int, size: int, count: int) -> float:
    """The median of so many calls, in ms."""
    message, walls_s = bytes(size), []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", CHANNEL) as channel:
        call = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")
        for _ in range(_WARM_UP):
            await call(message, wait_for_ready=True, timeout=TIMEOUT_S)
        for _ in range(count):
            began = time.perf_counter()
            await call(message)
            walls_s.append(time.perf_counter() - began)
    return median(walls_s) * 1e3


def echo_ms(hops: list[tuple[int, int]], server_core: int) -> list[float]:
    """The median of each hop: (bytes up, core of the caller); the server is a process on `server_core`."""
    module = [sys.executable, "-m", "benchmarks.serving.echo"]
    port = free_port()
    found = []
    with running(Command([*module, "serve", str(port)]), server_core, "echo"):
        for size, core in hops:
            words = ["taskset", "-c", str(core), *module, "ask", str(port), str(size), str(_CALLS)]
            done = subprocess.run(  # noqa: S603
                words, env={**os.environ}, capture_output=True, text=True, check=True, timeout=60
            )
            found.append(float(done.stdout))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        print(asyncio.run(ask(*map(int, sys.argv[2:]))))
