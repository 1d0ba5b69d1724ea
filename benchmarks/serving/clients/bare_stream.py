"""The client of `floor_tier`: bare bytes on one stream of grpc.aio, one image a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import grpc.aio

from benchmarks.serving.clients.client import CHANNEL, Answer, Client
from benchmarks.serving.clients.http import answer_of
from benchmarks.serving.floor_tier import METHOD, NUMBER_BYTES, SERVICE


class BareStreamClient(Client):
    """One stream, and a future for every image under way."""

    async def __aenter__(self) -> Self:
        self._bodies = [image.tobytes() for image in self.images]
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._count = 0
        self._writing = asyncio.Lock()  # one write at a time on a stream
        self._channel = grpc.aio.insecure_channel(self.address, CHANNEL)
        self._call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")(wait_for_ready=True)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._reader.cancel()
        self._call.cancel()
        await self._channel.close()

    async def _read(self) -> None:
        while isinstance(message := await self._call.read(), bytes):
            self._waiting.pop(message[:NUMBER_BYTES]).set_result(message[NUMBER_BYTES:])

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answer to one image. Raises ValueError for several."""
        (number,) = numbers
        self._count += 1
        name = self._count.to_bytes(NUMBER_BYTES, "little")
        answer = self._waiting[name] = asyncio.get_running_loop().create_future()
        async with self._writing:
            await self._call.write(name + self._bodies[number])
        return [answer_of(await answer)]
