"""The load generator's side, one file a protocol: each asks about images of the pool by their numbers.

Every client checks what it gets back far enough to say the label, so that no server is fast by answering nonsense.
"""

from __future__ import annotations

from benchmarks.serving.clients.bare_stream import BareStreamClient
from benchmarks.serving.clients.chain import ChainClient
from benchmarks.serving.clients.client import Answer, Client, Images
from benchmarks.serving.clients.http import BentoClient, LitServeClient, MosecClient
from benchmarks.serving.clients.open_inference import OpenInferenceClient
from benchmarks.serving.clients.ray_serve import RayClient
from benchmarks.serving.clients.stream import StreamClient
from benchmarks.serving.clients.unary import UnaryClient

CLIENTS: dict[str, type[Client]] = {
    "offramp stream": StreamClient,
    "offramp unary": UnaryClient,
    "open inference": OpenInferenceClient,
    "bare stream": BareStreamClient,
    "http": MosecClient,
    "http chain": ChainClient,
    "litserve": LitServeClient,
    "bentoml": BentoClient,
    "ray": RayClient,
}

__all__ = ["CLIENTS", "Answer", "Client", "Images"]
