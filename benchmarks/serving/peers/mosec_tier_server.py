"""A tier of three as a Mosec pipeline: a stage that computes, and behind it workers that ask the next tier.

    POST -> Compute (batches) -> Forward (batches, an asynchronous HTTP client) -> answer

Without NEXT there is no Forward: whoever asked gets the codes of what goes on, and asks the next tier itself.
"""

from __future__ import annotations

import asyncio
import os

import aiohttp
import numpy as np
from mosec import Server, Worker

from benchmarks.serving.peers.stage import GOES_ON, Stage

os.environ["MOSEC_PORT"], os.environ["MOSEC_ADDRESS"] = os.environ["PORT"], "127.0.0.1"
os.environ.setdefault("MOSEC_LOG_LEVEL", "warning")
NEXT = os.environ.get("NEXT", "")


class Compute(Worker):
    """The stage; bytes in, and one byte with a tensor out."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._network = Stage()

    def deserialize(self, data: bytes) -> np.ndarray:
        """One sample."""
        return self._network.tensor_of(data)

    def serialize(self, data: bytes) -> bytes:
        """As they are."""
        return data

    def serialize_ipc(self, data: bytes) -> bytes:
        """As they are."""
        return data

    def forward(self, data: list[np.ndarray]) -> list[bytes]:
        """The outcomes of a batch."""
        return [outcome.to_bytes() for outcome in self._network.run(np.stack(data))]


class Forward(Worker):
    """Passes answers through, and fetches those of what goes on, a batch at once."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._session = self._loop.run_until_complete(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def deserialize_ipc(self, data: bytes) -> bytes:
        """As they are."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """As they are."""
        return data

    async def _ask(self, codes: bytes) -> bytes:
        async with self._session.post(f"http://{NEXT}/inference", data=codes) as response:
            response.raise_for_status()
            return await response.read()

    async def _ask_all(self, going_on: list[bytes]) -> list[bytes]:
        return list(await asyncio.gather(*map(self._ask, going_on)))

    def forward(self, data: list[bytes]) -> list[bytes]:
        """The answers of a batch."""
        going_on = [outcome[1:] for outcome in data if outcome[0] == GOES_ON]
        if not going_on:
            return data
        answers = iter(self._loop.run_until_complete(self._ask_all(going_on)))
        return [next(answers) if outcome[0] == GOES_ON else outcome for outcome in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Compute, num=1, max_batch_size=16, max_wait_time=2)
    if NEXT:
        # Two, so that one may wait for the next tier while the other passes answers through.
        server.append_worker(Forward, num=2, max_batch_size=16, max_wait_time=1)
    server.run()
