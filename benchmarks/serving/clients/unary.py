"""offramp's unary call, the messages made beforehand as those of the other gRPC clients are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc.aio

from benchmarks.serving.clients.client import CHANNEL, TIMEOUT_S, Answer, Client, Images
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

_NAMES = (
    pb.Name(number=0, origin=pb.Origin(device="load", run=1)),
    pb.Name(number=0, network=""),
    pb.Name(number=0, policy=""),
)
_TIME_LEFT_US = round(TIMEOUT_S * 1e6)


class UnaryClient(Client):
    """A call a request; images asked about at once are the samples of one request."""

    def __init__(self, address: str, images: Images) -> None:
        super().__init__(address, images)
        self._payloads = [
            pb.Payload(tensors=pb.Tensors(tensors=[pb.Tensor(data=image.tobytes())]))
            for image in images
        ]
        self._made: dict[tuple[int, ...], pb.Request] = {}

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.address, CHANNEL)
        stub: Any = tier_pb2_grpc.TierStub(self._channel)  # type: ignore[no-untyped-call]
        self._infer = stub.Infer
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._channel.close()

    def _request(self, numbers: tuple[int, ...]) -> pb.Request:
        if numbers not in self._made:
            self._made[numbers] = pb.Request(
                names=_NAMES,
                samples=[
                    pb.Sample(
                        id=pb.SampleId(sequence=place),
                        time_left_us=_TIME_LEFT_US,
                        payload=self._payloads[number],
                    )
                    for place, number in enumerate(numbers)
                ],
            )
        return self._made[numbers]

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answers of one call, in the order of the images."""
        response = await self._infer(
            self._request(tuple(numbers)), timeout=TIMEOUT_S, wait_for_ready=True
        )
        results = sorted(response.results, key=lambda result: result.id.sequence)
        return [Answer(result.answer.label, result.answer.exit) for result in results]
