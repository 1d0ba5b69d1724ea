"""NVIDIA Triton through PyTriton: its Python backend, batches of up to 16 gathered for at most 0.5 ms."""

from __future__ import annotations

import os
import signal

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving.running import free_port
from benchmarks.serving.session import open_session

SESSION = open_session(os.environ["MODEL"])
TAKES = SESSION.get_inputs()[0].name


@batch
def infer(image: np.ndarray) -> dict[str, np.ndarray]:
    """Logits of a batch."""
    return {"logits": SESSION.run(None, {TAKES: image})[0]}


if __name__ == "__main__":
    ports = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=int(os.environ["PORT"]),
        http_address="127.0.0.1",
        http_port=free_port(),
        metrics_port=free_port(),
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="network",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=(3, 32, 32))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(
                max_batch_size=16, batcher=DynamicBatcher(max_queue_delay_microseconds=500)
            ),
        )
        triton.run()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
