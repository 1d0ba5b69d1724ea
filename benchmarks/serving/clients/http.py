"""HTTP with binary bodies; each server's own way of taking them is a subclass."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Self

import aiohttp
import numpy as np

from benchmarks.serving.clients.client import TIMEOUT_S, Answer, Client, Images


def answer_of(body: bytes) -> Answer:
    """One byte, the exit, and the logits as float32."""
    return Answer(int(np.frombuffer(body, np.float32, offset=1).argmax()), body[0])


class HttpClient(Client):
    """A POST a request, of one image; connections stay open."""

    path = "/inference"
    content_type = "application/octet-stream"

    def __init__(self, address: str, images: Images) -> None:
        super().__init__(address, images)
        self._bodies = [self.body(image) for image in images]

    def body(self, image: Images) -> bytes:
        """The request's body for one image (3, 32, 32)."""
        return image.tobytes()

    def answer(self, body: bytes) -> Answer:
        """What a response's body says."""
        return answer_of(body)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            base_url=f"http://{self.address}",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Content-Type": self.content_type},
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answer to one image. Raises ValueError for several, aiohttp.ClientError where there is none."""
        (number,) = numbers
        async with self._session.post(self.path, data=self._bodies[number]) as response:
            response.raise_for_status()
            return [self.answer(await response.read())]


class MosecClient(HttpClient):
    """Bytes in, bytes out."""


class LitServeClient(HttpClient):
    """JSON, for LitServe's own parsing takes nothing else: the tensor in base64."""

    path, content_type = "/predict", "application/json"

    def body(self, image: Images) -> bytes:
        """{"image": base64}."""
        return json.dumps({"image": base64.b64encode(image.tobytes()).decode()}).encode()

    def answer(self, body: bytes) -> Answer:
        """{"answer": base64}."""
        return answer_of(base64.b64decode(json.loads(body)["answer"]))


class BentoClient(HttpClient):
    """JSON, as BentoML takes batches from outside: a list of tensors in base64."""

    content_type = "application/json"

    def body(self, image: Images) -> bytes:
        """{"images": [base64]}."""
        return json.dumps({"images": [base64.b64encode(image.tobytes()).decode()]}).encode()

    def answer(self, body: bytes) -> Answer:
        """[base64]."""
        return answer_of(base64.b64decode(json.loads(body)[0]))
