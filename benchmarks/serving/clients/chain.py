"""Three tiers chained by whoever asks: an asynchronous HTTP client that goes on to the next tier with the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import aiohttp

from benchmarks.serving.clients.client import Answer
from benchmarks.serving.clients.http import HttpClient, answer_of

GOES_ON = 255  # in place of the exit's number, before the codes


class ChainClient(HttpClient):
    """`address` names all tiers, the device first: HOST:PORT,HOST:PORT,..."""

    async def __aenter__(self) -> Self:
        self._urls = [f"http://{one}{self.path}" for one in self.address.split(",")]
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answer to one image. Raises ValueError for several, and where the last tier answers nothing."""
        (number,) = numbers
        body = self._bodies[number]
        for url in self._urls:
            async with self._session.post(url, data=body) as response:
                response.raise_for_status()
                body = await response.read()
            if body[0] != GOES_ON:
                return [answer_of(body)]
            body = body[1:]
        raise ValueError("the last tier sent codes")
