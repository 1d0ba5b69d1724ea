"""BentoML: HTTP, adaptive batches of up to 16; the tensor in base64, for it takes binary bodies from inside only."""

from __future__ import annotations

import base64
import os
import sys

os.environ["BENTOML_DO_NOT_TRACK"] = "True"  # read when bentoml is imported

import bentoml
import numpy as np

from benchmarks.serving.session import open_session


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Network:
    """{"images": [base64]} in, [base64] out."""

    def __init__(self) -> None:
        self._session = open_session(os.environ["MODEL"])
        self._takes = self._session.get_inputs()[0].name

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000, route="/inference")
    def infer(self, images: list[str]) -> list[str]:
        """One byte, the exit, and raw logits, of each image, in base64."""
        data = b"".join(map(base64.b64decode, images))
        tensor = np.frombuffer(data, np.float32).reshape(-1, 3, 32, 32)
        logits = self._session.run(None, {self._takes: tensor})[0]
        return [base64.b64encode(b"\0" + row.tobytes()).decode() for row in logits]


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", f"{__file__}:Network"]
    os.execv(  # noqa: S606
        sys.executable, [*command, "--host", "127.0.0.1", "--port", os.environ["PORT"], "-q"]
    )
