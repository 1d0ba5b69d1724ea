"""Ray Serve's gRPC proxy: bytes in, bytes out, in messages that protobuf itself brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import grpc.aio
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.serving.clients.client import CHANNEL, TIMEOUT_S, Answer, Client, Images
from benchmarks.serving.clients.http import answer_of

_METHOD = "/benchmark.Network/Infer"
_METADATA = (("application", "default"),)


class RayClient(Client):
    """A call a request, of one image."""

    def __init__(self, address: str, images: Images) -> None:
        super().__init__(address, images)
        self._requests = [BytesValue(value=image.tobytes()) for image in images]

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.address, CHANNEL)
        self._infer = self._channel.unary_unary(
            _METHOD,
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._channel.close()

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answer to one image. Raises ValueError for several."""
        (number,) = numbers
        response = await self._infer(
            self._requests[number], metadata=_METADATA, timeout=TIMEOUT_S, wait_for_ready=True
        )
        return [answer_of(response.value)]
