"""Mosec: a Rust front with HTTP, batches of up to 16 gathered for at most 2 ms, one Python worker."""

from __future__ import annotations

import os

import numpy as np
from mosec import Server, Worker

from benchmarks.serving.session import open_session

os.environ["MOSEC_PORT"], os.environ["MOSEC_ADDRESS"] = os.environ["PORT"], "127.0.0.1"
os.environ.setdefault("MOSEC_LOG_LEVEL", "warning")


class Network(Worker):
    """Raw float32 images in; one byte, the exit, and raw logits out."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._session = open_session(os.environ["MODEL"])
        self._takes = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> np.ndarray:
        """(3, 32, 32)."""
        return np.frombuffer(data, np.float32).reshape(3, 32, 32)

    def serialize(self, data: np.ndarray) -> bytes:
        """The answer's bytes."""
        return b"\0" + data.tobytes()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        """Logits of a batch."""
        return list(self._session.run(None, {self._takes: np.stack(data)})[0])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Network, num=1, max_batch_size=16, max_wait_time=2)
    server.run()
