"""LitServe: HTTP alone, JSON with the tensor in base64; batches of up to 16 gathered for at most 2 ms."""

from __future__ import annotations

import base64
import os

import litserve
import numpy as np

from benchmarks.serving.session import open_session


class Network(litserve.LitAPI):
    """{"image": base64} in, {"answer": base64} out."""

    def setup(self, _device: str) -> None:
        """Open the session, in the worker."""
        self._session = open_session(os.environ["MODEL"])
        self._takes = self._session.get_inputs()[0].name

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """(3, 32, 32)."""
        data = base64.b64decode(request["image"])
        return np.frombuffer(data, np.float32).reshape(3, 32, 32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits of a batch."""
        return self._session.run(None, {self._takes: images})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """One row a request."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, str]:
        """One byte, the exit, and raw logits, in base64."""
        return {"answer": base64.b64encode(b"\0" + output.tobytes()).decode()}


if __name__ == "__main__":
    api = Network(max_batch_size=16, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
