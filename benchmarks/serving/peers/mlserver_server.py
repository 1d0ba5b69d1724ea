"""MLServer, Open Inference Protocol over gRPC, in one process, as it is fastest on one core; no batching."""

from __future__ import annotations

import asyncio
import os

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.running import free_port
from benchmarks.serving.session import open_session


class Network(MLModel):
    """Tensor in, tensor out."""

    async def load(self) -> bool:
        """Open the session."""
        self._session = open_session(os.environ["MODEL"])
        self._takes = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Logits of the tensor."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        logits = self._session.run(None, {self._takes: images})[0]
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)]
        )


async def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host="127.0.0.1",
        http_port=free_port(),
        grpc_port=int(os.environ["PORT"]),
        metrics_port=free_port(),
        metrics_dir=os.environ.get("TMPDIR", "/tmp"),  # noqa: S108
    )
    model = ModelSettings(name="network", implementation=Network)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
