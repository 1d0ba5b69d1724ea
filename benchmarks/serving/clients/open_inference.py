"""The Open Inference Protocol over gRPC with raw tensors: the floor, KServe, MLServer, Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc.aio
import numpy as np

from benchmarks.serving.clients.client import CHANNEL, TIMEOUT_S, Answer, Client, Images
from benchmarks.serving.open_inference import inference_pb2 as pb
from benchmarks.serving.open_inference import inference_pb2_grpc

MODEL, INPUT = "network", "image"


class OpenInferenceClient(Client):
    """A ModelInfer a request; images asked about at once are one tensor.

    Of three tiers, the answer has a second tensor, UINT8: the exits.
    """

    def __init__(self, address: str, images: Images) -> None:
        super().__init__(address, images)
        self._made: dict[tuple[int, ...], Any] = {}

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.address, CHANNEL)
        stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._infer = stub.ModelInfer
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._channel.close()

    def _request(self, numbers: tuple[int, ...]) -> Any:
        if numbers not in self._made:
            tensor = self.images[list(numbers)]
            request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[tensor.tobytes()])
            request.inputs.add(name=INPUT, datatype="FP32", shape=tensor.shape)
            self._made[numbers] = request
        return self._made[numbers]

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answers of one call."""
        response = await self._infer(
            self._request(tuple(numbers)), timeout=TIMEOUT_S, wait_for_ready=True
        )
        logits = np.frombuffer(response.raw_output_contents[0], np.float32)
        labels = logits.reshape(len(numbers), -1).argmax(1)
        exits = bytes(len(numbers))
        if len(response.raw_output_contents) > 1:
            exits = response.raw_output_contents[1]
        return [Answer(int(label), exit_) for label, exit_ in zip(labels, exits, strict=True)]
