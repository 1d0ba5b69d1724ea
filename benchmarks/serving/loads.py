"""The load generator: a process of its own on another core than the servers.

    Closed  so many requests in flight; the next goes when one is answered
    Open    a seeded Poisson process of requests, each timed from when it was due, however late it could go

What a request took is kept for each; what the server's processes spent meanwhile is read at both ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.clients import CLIENTS, Answer, Client, Images
from benchmarks.serving.measuring import Meter, machine_cpu_s

WARM_UP = 300
_RETRY_S = 0.01
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """`in_flight` callers, each with the next `batch` images as soon as it has its answer."""

    in_flight: int
    seconds: float
    batch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Requests of one image at `rate_hz` in the mean."""

    rate_hz: float
    seconds: float
    seed: int


Load = Closed | Open


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, about which images, and what has to come back."""

    protocol: str
    address: str
    images: Images
    expected: Sequence[Answer]


class Outcome(NamedTuple):
    """What a load found. A request that failed or was answered wrongly is in `wrong` alone.

    latencies_s: (N,) of the requests answered rightly; numbers: (N,) the first image of each; wall_s, server_cpu_s,
    client_cpu_s, machine_cpu_s: from the first request to the last answer; the last is of everything on this machine.
    """

    latencies_s: NDArray[np.float64]
    numbers: NDArray[np.int64]
    wrong: dict[str, int]
    images: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    machine_cpu_s: float


class _Tally:
    """Requests as they are answered."""

    def __init__(self, client: Client, expected: Sequence[Answer]) -> None:
        self._client, self._expected = client, expected
        self.latencies_s: list[float] = []
        self.numbers: list[int] = []
        self.wrong: Counter[str] = Counter()
        self.images = 0

    async def ask(self, numbers: Sequence[int], due: float) -> None:
        """One request, timed from `due`."""
        try:
            answers = await self._client.ask(numbers)
        except Exception as exc:  # each protocol has its own; all of them are counted
            self.wrong[f"{type(exc).__name__}: {exc}"[:200]] += 1
            return
        took_s = time.perf_counter() - due
        if answers != [self._expected[number] for number in numbers]:
            self.wrong["another answer than onnxruntime's"] += 1
            return
        self.latencies_s.append(took_s)
        self.numbers.append(numbers[0])
        self.images += len(numbers)


async def _closed(tally: _Tally, load: Closed, pool: int) -> None:
    until, place = time.perf_counter() + load.seconds, 0

    async def one_after_another() -> None:
        nonlocal place
        while (now := time.perf_counter()) < until:
            numbers = [(place + step) % pool for step in range(load.batch)]
            place += load.batch
            await tally.ask(numbers, now)

    await asyncio.gather(*(one_after_another() for _ in range(load.in_flight)))


def arrivals_s(load: Open) -> NDArray[np.float64]:
    """When each request is due, from the start: the same ones for the same load."""
    chance = np.random.default_rng(load.seed)
    gaps = chance.exponential(1 / load.rate_hz, size=round(2 * load.rate_hz * load.seconds) + 20)
    times: NDArray[np.float64] = np.cumsum(gaps)
    return times[times < load.seconds]


async def _open(tally: _Tally, load: Open, pool: int) -> None:
    began = time.perf_counter()
    tasks = []
    for place, due in enumerate((arrivals_s(load) + began).tolist()):
        left_s = due - time.perf_counter()
        if left_s > 0:
            await asyncio.sleep(left_s)
        tasks.append(asyncio.create_task(tally.ask([place % pool], due)))
    await asyncio.gather(*tasks)


async def _warm_up(client: Client, pool: int, batch: int, in_flight: int) -> None:
    """So many requests as under the load; failures come up in the load itself."""
    expected = [Answer(-1)] * pool
    tally = _Tally(client, expected)
    for start in range(0, WARM_UP // batch, in_flight):
        firsts = range(start, start + in_flight)
        groups = [[(first * batch + k) % pool for k in range(batch)] for first in firsts]
        await asyncio.gather(*(tally.ask(numbers, 0.0) for numbers in groups))


def _readings(meter: Meter) -> tuple[float, float, float, float]:
    return (time.perf_counter(), meter.cpu_s(), time.process_time(), machine_cpu_s())


async def _drive(target: Target, load: Load, meter: Meter) -> Outcome:
    pool = len(target.images)
    async with CLIENTS[target.protocol](target.address, target.images) as client:
        batch, in_flight = (load.batch, load.in_flight) if isinstance(load, Closed) else (1, 8)
        await _warm_up(client, pool, batch, in_flight)
        tally = _Tally(client, target.expected)
        gc.collect()
        gc.freeze()
        before = _readings(meter)
        if isinstance(load, Closed):
            await _closed(tally, load, pool)
        else:
            await _open(tally, load, pool)
        after = _readings(meter)
    spent = [later - sooner for sooner, later in zip(before, after, strict=True)]
    return Outcome(
        np.array(tally.latencies_s),
        np.array(tally.numbers, np.int64),
        dict(tally.wrong),
        tally.images,
        *spent,
    )


async def _first_answer(target: Target, within_s: float, number: int) -> float:
    until = time.monotonic() + within_s
    while True:
        try:
            async with CLIENTS[target.protocol](target.address, target.images) as client:
                if await asyncio.wait_for(client.ask([number]), 2.0) == [target.expected[number]]:
                    return time.monotonic()
                raise ValueError("another answer than onnxruntime's")
        except Exception as exc:  # not there yet, in the words of its protocol
            if time.monotonic() > until:
                said = (
                    f"{type(exc).__name__}: {exc}"  # itself it may not be one that can be pickled
                )
                raise TimeoutError(f"{target.address}: no answer in {within_s} s: {said}") from None
        await asyncio.sleep(_RETRY_S)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for the whole process: gRPC for asyncio stays with the first that it sees."""
    return asyncio.new_event_loop()


def _run_first_answer(target: Target, within_s: float, number: int) -> float:
    return _loop().run_until_complete(_first_answer(target, within_s, number))


def _run_drive(target: Target, load: Load, meter: Meter) -> Outcome:
    return _loop().run_until_complete(_drive(target, load, meter))


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


class Generator:
    """The load generator's process, on one core; a context manager."""

    def __init__(self, core: int) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_pin, initargs=(core,)
        )
        self._submit(os.getpid).result()  # it is up before it has anything to time

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._pool.submit(function, *arguments)

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def first_answer(self, target: Target, within_s: float, number: int = 0) -> float:
        """When (time.monotonic()) a server that is being started first answered rightly about an image of the pool.

        Raises TimeoutError with what its client raised last where it does not within `within_s`.
        """
        return self._submit(_run_first_answer, target, within_s, number).result()

    def drive(self, target: Target, load: Load, meter: Meter) -> Outcome:
        """What the load finds, after a warm-up of 300 images or so."""
        return self._submit(_run_drive, target, load, meter).result()
