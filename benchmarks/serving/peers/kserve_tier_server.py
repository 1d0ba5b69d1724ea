"""A tier of three as a KServe model that asks the next tier's model over gRPC, with KServe's own client."""

from __future__ import annotations

import os

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    Model,
    ModelServer,
)
from kserve.logging import logger

from benchmarks.serving.peers.stage import GOES_ON, Stage
from benchmarks.serving.running import free_port


class Tier(Model):
    """Computes, and answers or asks."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._stage, self._next = Stage(), None
        self.ready = True

    async def _ask(self, codes: np.ndarray) -> InferResponse:
        if self._next is None:  # here, for it binds to the running event loop
            self._next = InferenceGRPCClient(os.environ["NEXT"])
        tensor = InferInput("codes", [1, *codes.shape], "UINT8")
        tensor.set_data_from_numpy(codes[None])
        return await self._next.infer(InferRequest(self.name, [tensor]))

    async def predict(self, payload: InferRequest, *_headers: object) -> InferResponse:
        """The logits, and beside them the exit as UINT8."""
        (outcome,) = self._stage.run(payload.inputs[0].as_numpy())
        if outcome.exit == GOES_ON:
            return await self._ask(outcome.tensor)
        logits = InferOutput("logits", [1, outcome.tensor.size], "FP32")
        logits.set_data_from_numpy(outcome.tensor[None])
        exit_ = InferOutput("exit", [1], "UINT8")
        exit_.set_data_from_numpy(np.array([outcome.exit], np.uint8))
        return InferResponse(payload.id, self.name, [logits, exit_])


if __name__ == "__main__":
    server = ModelServer(
        http_port=free_port(), grpc_port=int(os.environ["PORT"]), enable_latency_logging=False
    )
    logger.setLevel("WARNING")  # its interceptor logs every call
    server.start([Tier("network")])
