"""The floor: the least server that a careful engineer writes by hand, gRPC for asyncio around onnxruntime.

    ModelInfer(raw tensor) -> NumPy view -> session.run in one thread -> raw logits

One session with one thread, one worker that runs it, no batching, no metrics, no health: what a request costs here is
what gRPC, Python and the network itself cost. `python -m benchmarks.serving.floor MODEL PORT`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.serving.open_inference import inference_pb2 as pb
from benchmarks.serving.open_inference import inference_pb2_grpc
from benchmarks.serving.session import open_session


class Floor(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers ModelInfer with the logits of the one network it has."""

    def __init__(self, model: str) -> None:
        self._session = open_session(model)
        self._takes = self._session.get_inputs()[0].name
        self._gives = self._session.get_outputs()[0].name
        self._compute = ThreadPoolExecutor(1)

    def _run(self, data: bytes, shape: list[int]) -> Any:
        tensor = np.frombuffer(data, np.float32).reshape(shape)
        return self._session.run([self._gives], {self._takes: tensor})[0]

    async def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Ready from the moment it listens."""
        return pb.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Logits (N, classes) float32 of images (N, 3, 32, 32) float32; INVALID_ARGUMENT for anything else."""
        try:
            shape, data = list(request.inputs[0].shape), request.raw_input_contents[0]
            loop = asyncio.get_running_loop()
            logits = await loop.run_in_executor(self._compute, self._run, data, shape)
        except Exception as exc:  # a wrong tensor, named by NumPy, protobuf or onnxruntime
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name=self._gives, datatype="FP32", shape=logits.shape)
        response.raw_output_contents.append(logits.tobytes())
        return response


async def serve(model: str, port: int) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Floor(model), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
