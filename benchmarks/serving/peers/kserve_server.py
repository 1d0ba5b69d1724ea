"""KServe's Python ModelServer, Open Inference Protocol over gRPC; it has no batching of its own."""

from __future__ import annotations

import os

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.logging import logger

from benchmarks.serving.running import free_port
from benchmarks.serving.session import open_session


class Network(Model):
    """Tensor in, tensor out."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._session = open_session(os.environ["MODEL"])
        self._takes = self._session.get_inputs()[0].name
        self.ready = True

    async def predict(self, payload: InferRequest, *_headers: object) -> InferResponse:
        """Logits of the tensor."""
        images = payload.inputs[0].as_numpy()
        logits = self._session.run(None, {self._takes: images})[0]
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    server = ModelServer(
        http_port=free_port(), grpc_port=int(os.environ["PORT"]), enable_latency_logging=False
    )
    logger.setLevel("WARNING")  # its interceptor logs every call
    server.start([Network("network")])
