"""A steady load on a device from a thread of its own, and what became of each request.

    due every 1 / rate seconds --> offramp.AsyncClient --> Asked(due, took, tier, reason or error)

Open loop: a request is sent when it is due, whatever became of those before it. Times are of time.monotonic().
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.client import AsyncClient
from offramp.errors import OfframpError


class Asked(NamedTuple):
    """One request. reason: why it is degraded, "" where it is not; error: where there was no answer, what there was."""

    number: int
    due: float
    took_s: float
    tier: str
    reason: str
    error: str

    @property
    def ended(self) -> float:
        """When its answer or error came."""
        return self.due + self.took_s


@dataclass(slots=True)
class Load:
    """What a load has come to so far; `asked` grows while it runs, in the order of the ends."""

    rate_hz: float
    deadline_s: float
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0

    def between(self, begin: float, end: float) -> list[Asked]:
        """Those that were due then and have ended."""
        return [one for one in list(self.asked) if begin <= one.due < end]


@contextmanager
def loading(
    address: str, images: NDArray[np.uint8], rate_hz: float, deadline_s: float
) -> Iterator[Load]:
    """The load of images (N, H, W, C), running; at the end it is stopped, and everything sent has ended."""
    load, stopped = Load(rate_hz, deadline_s), threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_send(load, address, images, stopped)), name="load"
    )
    thread.start()
    try:
        yield load
    finally:
        stopped.set()
        thread.join()


async def _send(
    load: Load, address: str, images: NDArray[np.uint8], stopped: threading.Event
) -> None:
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        began = time.monotonic()
        for index in itertools.count():
            due = began + index / load.rate_hz
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            if stopped.is_set():
                return
            load.sent += 1
            image = images[index % len(images)]
            group.create_task(_ask(load, client, index, due, image))


async def _ask(
    load: Load, client: AsyncClient, number: int, due: float, image: NDArray[np.uint8]
) -> None:
    tier, reason, error = "", "", ""
    try:
        answer: Any = await client.infer(image, deadline_s=load.deadline_s)
        tier, reason = str(answer.tier), answer.degraded or ""
    except OfframpError as exc:
        error = type(exc).__name__
    load.asked.append(Asked(number, due, time.monotonic() - due, tier, reason, error))
