"""offramp's stream, through the client that users have, one image a message.

By itself the client puts into one message whatever is ready at once, and a server that answers several together makes
several ready at once. The other systems' messages hold one image, so its limit of a message is set to what one takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from benchmarks.serving.clients.client import TIMEOUT_S, Answer, Client, Images
from offramp.client import AsyncClient
from offramp.rpc import StreamOptions

_ENVELOPE_BYTES = 2048
_BACKOFF_S = 0.02


class StreamClient(Client):
    """Two streams: one for images asked about alone, one for those that are to go up together."""

    def __init__(self, address: str, images: Images) -> None:
        super().__init__(address, images)
        self._list = list(images)
        alone = StreamOptions(
            first_backoff_s=_BACKOFF_S,
            most_backoff_s=_BACKOFF_S,
            message_bytes=self._list[0].nbytes + _ENVELOPE_BYTES,
        )
        together = StreamOptions(first_backoff_s=_BACKOFF_S, most_backoff_s=_BACKOFF_S)
        self._alone = AsyncClient(address, name="alone", options=alone)
        self._together = AsyncClient(address, name="together", options=together)

    async def __aenter__(self) -> Self:
        await self._alone.__aenter__()
        await self._together.__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._alone.__aexit__(None, None, None)
        await self._together.__aexit__(None, None, None)

    async def _one(self, client: AsyncClient, number: int) -> Answer:
        answer = await client.infer(self._list[number], deadline_s=TIMEOUT_S)
        return Answer(answer.label, answer.exit)

    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answers, of samples that go up together."""
        if len(numbers) == 1:
            return [await self._one(self._alone, numbers[0])]
        return list(await asyncio.gather(*(self._one(self._together, n) for n in numbers)))
