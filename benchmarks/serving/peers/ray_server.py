"""Ray Serve: its gRPC proxy and one replica, batches of up to 16 gathered for at most 1 ms."""

from __future__ import annotations

import os
import signal

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported

import grpc
import numpy as np
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions

from benchmarks.serving.running import free_port
from benchmarks.serving.session import open_session

SERVICE = "benchmark.Network"


def add_network(servicer: object, server: grpc.Server) -> None:
    """Register Infer(BytesValue) -> BytesValue, as generated code would."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Infer,  # type: ignore[attr-defined]
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"Infer": handler})
    server.add_generic_rpc_handlers((handlers,))


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Network:
    """Raw float32 images in; one byte, the exit, and raw logits out."""

    def __init__(self, model: str) -> None:
        self._session = open_session(model)
        self._takes = self._session.get_inputs()[0].name

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.001)
    async def _batch(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._session.run(None, {self._takes: np.stack(images)})[0])

    async def Infer(self, request: BytesValue) -> BytesValue:  # noqa: N802
        """The answer to one image."""
        image = np.frombuffer(request.value, np.float32).reshape(3, 32, 32)
        logits = await self._batch(image)
        return BytesValue(value=b"\0" + logits.tobytes())


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    options = gRPCOptions(
        port=int(os.environ["PORT"]),
        grpc_servicer_functions=["benchmarks.serving.peers.ray_server.add_network"],
    )
    serve.start(http_options={"port": free_port()}, grpc_options=options)
    serve.run(Network.bind(os.environ["MODEL"]))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
