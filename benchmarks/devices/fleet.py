"""A fleet of devices: their streams, and one load after another on them.

ask -> DeviceStream -> tier -> hear -> what it took, and in a closed loop the next one
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from benchmarks.devices.loads import NOTHING, Closed, Load, Outcome, Window, arrivals, code_of
from benchmarks.devices.stream import DeviceStream, Form
from benchmarks.serving.measuring import Meter

_TICK_S = 0.001  # requests that are due within one go together: no turn of the loop for each
_OPENED_AT_ONCE = 64
_DRAIN_S = 5.0
T = TypeVar("T")


class Fleet:
    """Streams of so many devices to one tier; an asynchronous context manager. Loads come one after another."""

    def __init__(self, address: str, devices: int, form: Form) -> None:
        self._address, self._form = address, form
        self._first = 0  # sequence number of the load's first request: they are unique over loads
        self.streams: list[DeviceStream] = []
        self._load: _Running | None = None
        self._devices = devices

    async def __aenter__(self) -> Fleet:
        try:
            await self.grow(self._devices)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def grow(self, devices: int) -> None:
        """Connect more of them, until there are so many."""
        while (there := len(self.streams)) < devices:
            more = range(there, min(devices, there + _OPENED_AT_ONCE))
            fresh = [DeviceStream(self._address, k, self._form, self._hear) for k in more]
            self.streams += fresh
            await asyncio.gather(*(stream.open() for stream in fresh))

    async def close(self) -> None:
        """End all streams."""
        await asyncio.gather(*(stream.close() for stream in self.streams))

    def _hear(self, device: int, result: Any) -> None:
        if self._load is not None:
            self._load.hear(device, result)

    async def drive(self, load: Load, meters: Mapping[str, Meter]) -> Outcome:
        """What the load finds. Raises RuntimeError where a stream ends under it."""
        self._load = running = _Running(self.streams, load, self._first)
        try:
            outcome = await running.run(meters)
        finally:
            self._first += len(running.due)
            self._load = None
        return outcome


class _Running:
    """One load while it runs; `due`, `took` and the others by request."""

    def __init__(self, streams: Sequence[DeviceStream], load: Load, first: int) -> None:
        self._streams, self._spec, self._first = streams, load, first
        self.due: list[float] = []
        self._devices: list[int] = []
        self._took: list[float] = []
        self._codes: list[int] = []
        self._late: list[float] = []
        self._results = 0
        self._refills = isinstance(load, Closed) and load.seconds > 0
        self._all_heard = asyncio.Event()

    def _ask(self, device: int, due: float, now: float) -> None:
        sequence = self._first + len(self.due)
        self.due.append(due)
        self._devices.append(device)
        self._took.append(float("nan"))
        self._codes.append(NOTHING)
        self._late.append(now - due)
        self._streams[device].send(sequence, due + self._spec.deadline_s)

    def hear(self, device: int, result: Any) -> None:
        """One result more; in a closed loop the next request of its device."""
        place = result.id.sequence - self._first
        if place < 0 or self._codes[place] != NOTHING:
            return  # of an earlier load that was not waited for
        now = time.monotonic()
        self._took[place] = now - self.due[place]
        self._codes[place] = code_of(result)
        self._results += 1
        if self._refills:
            self._ask(device, now, now)
        elif self._results == len(self.due):
            self._all_heard.set()

    async def run(self, meters: Mapping[str, Meter]) -> Outcome:
        """Make the requests, and wait until nothing more comes back."""
        began = time.monotonic()
        conducting = asyncio.create_task(self._conduct(meters, began))
        ends = {task for stream in self._streams for task in stream.tasks}
        try:
            done, _ = await asyncio.wait({conducting, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if conducting not in done:
                raise RuntimeError(f"a stream ended under the load: {done.pop()}")
            window = conducting.result()
            self._refills = False
            await self._drain()
        finally:
            conducting.cancel()
        return Outcome(
            np.array(self._devices, np.int64),
            np.array(self.due) - began,
            np.array(self._took),
            np.array(self._codes, np.int64),
            float(np.percentile(self._late, 99)),
            window,
            began,
        )

    async def _conduct(self, meters: Mapping[str, Meter], began: float) -> Window:
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(self._measure(meters))
            group.create_task(self._make_requests(began))
        return measuring.result()

    async def _make_requests(self, began: float) -> None:
        load = self._spec
        if isinstance(load, Closed):
            for _ in range(load.in_flight):
                for device in range(len(self._streams)):
                    now = time.monotonic()
                    self._ask(device, now, now)
            return
        times, devices = arrivals(load)
        waiting = zip((times + began).tolist(), devices.tolist(), strict=True)
        for due, device in waiting:
            now = time.monotonic()
            if now < due:
                await asyncio.sleep(max(due - now, _TICK_S))
                now = time.monotonic()
            self._ask(device, due, now)

    async def _drain(self) -> None:
        """Wait for the results that are still to come, until nothing has come for a while."""
        heard = -1
        while self._results < len(self.due) and heard != self._results:
            heard = self._results
            self._all_heard.clear()
            try:
                await asyncio.wait_for(self._all_heard.wait(), _DRAIN_S)
            except TimeoutError:
                continue

    async def _measure(self, meters: Mapping[str, Meter]) -> Window:
        load = self._spec
        await asyncio.sleep(load.warm_s)
        before = self._snapshot(meters)
        await asyncio.sleep(load.seconds - load.warm_s)
        after = self._snapshot(meters)
        spent = {name: after.tiers_cpu_s[name] - before.tiers_cpu_s[name] for name in meters}
        return Window(
            after.results - before.results,
            after.wall_s - before.wall_s,
            spent,
            after.load_cpu_s - before.load_cpu_s,
            after.messages_up - before.messages_up,
            after.messages_down - before.messages_down,
        )

    def _snapshot(self, meters: Mapping[str, Meter]) -> Window:
        return Window(
            self._results,
            time.monotonic(),
            {name: meter.cpu_s() for name, meter in meters.items()},
            time.process_time(),
            sum(stream.messages_up for stream in self._streams),
            sum(stream.messages_down for stream in self._streams),
        )


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, in one event loop for the whole process.

    gRPC tells the loop of a call of its end even when that is closed by then, and that fails in whichever comes next.
    """
    return _loop().run_until_complete(coroutine)


def drive(
    address: str, devices: int, form: Form, loads: Sequence[Load], meters: Mapping[str, Meter]
) -> list[Outcome]:
    """What each load finds, one after another on the same streams, which are opened before and closed after."""

    async def driven() -> list[Outcome]:
        async with Fleet(address, devices, form) as fleet:
            gc.collect()
            gc.freeze()
            return [await fleet.drive(load, meters) for load in loads]

    return in_loop(driven())
