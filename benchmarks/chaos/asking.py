"""Several devices' streams to one tier with so many requests under way, every result counted by its request.

What `offramp.AsyncClient` would forgive (a second result, a result of another network) is what is looked for here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.devices.loads import named
from benchmarks.devices.stream import DeviceStream, Form
from offramp.rpc.v1 import tier_pb2 as pb

_POOL = 512  # images, in turn
_LAST_S = 5.0  # beyond the last deadline, for results to come


@dataclass(slots=True)
class Results:
    """Of N requests: finals (N,) how many final results each had; codes by name; what was wrong with answers."""

    finals: NDArray[np.int64]
    outcomes: Counter[str] = field(default_factory=Counter)
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)
    degraded: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


class Asking:
    """N requests to a tier at `address`. labels: (E, images) what each exit says of each image of (images, ...)."""

    def __init__(
        self,
        address: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        count: int,
        streams: int = 3,
        in_flight: int = 48,
        deadline_s: float = 1.0,
    ) -> None:
        self._labels, self._count, self._deadline_s = labels, count, deadline_s
        payloads = [image.tobytes() for image in images[:_POOL]]
        form = Form(boundary=0, policy="", payloads=payloads)
        self._pool = len(payloads)
        self._streams = [
            DeviceStream(address, number, form, self._hear) for number in range(streams)
        ]
        self._free = asyncio.Semaphore(in_flight)
        self._sent = self._ended = 0
        self._all = asyncio.Event()
        self.results = Results(np.zeros(count, np.int64))

    async def run(self, progress: Callable[[int], None] = lambda _: None) -> Results:
        """Ask, and wait for the last result, or long enough to know that none comes."""
        await asyncio.gather(*(stream.open() for stream in self._streams))
        try:
            for number in range(self._count):
                await asyncio.wait_for(self._free.acquire(), self._deadline_s + _LAST_S)
                stream = self._streams[number % len(self._streams)]
                stream.send(number, time.monotonic() + self._deadline_s)
                self._sent += 1
                progress(self._sent)
            with suppress(TimeoutError):  # then some have none
                await asyncio.wait_for(self._all.wait(), self._deadline_s + _LAST_S)
            await asyncio.sleep(0.2)  # for what should not come
        finally:
            await asyncio.gather(*(stream.close() for stream in self._streams))
        return self.results

    def _hear(self, stream: int, result: Any) -> None:
        results, number = self.results, result.id.sequence
        if number >= self._sent or number % len(self._streams) != stream:
            results.wrong["result of no request"] += 1
            return
        if not result.final:
            results.wrong["not final"] += 1
            return
        results.finals[number] += 1
        self._ended += results.finals[number] == 1
        if self._ended == self._count:
            self._all.set()
        self._free.release()
        if result.WhichOneof("outcome") != "answer":
            results.outcomes[f"status {result.status.code}"] += 1
            return
        self._take(result.answer, number)

    def _take(self, answer: Any, number: int) -> None:
        results = self.results
        tier = pb.TierName.Name(answer.tier).removeprefix("TIER_NAME_").lower()
        results.exits[tier, answer.exit] += 1
        results.outcomes["degraded" if answer.degraded else "answered"] += 1
        if answer.degraded:
            reason = named(16 * answer.tier + answer.degraded).rpartition(", ")[2]
            results.degraded[tier, reason] += 1
        if answer.network or answer.policy:  # the first of each that a stream names is its number 0
            results.wrong["another network or policy"] += 1
        if answer.label != self._labels[answer.exit, number % self._pool]:
            results.wrong["another label than that exit gives"] += 1
