"""The processes of a benchmark: tiers on their cores, and the load generator on its own."""

from __future__ import annotations

import os
import re
import resource
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, TypeVar

from benchmarks.serving.measuring import Meter
from benchmarks.serving.running import free_port, running
from benchmarks.serving.systems import tier_command

T = TypeVar("T")
Run = Callable[..., T]
_IN_FLIGHT = re.compile(r"^offramp_in_flight\{[^}]*\} (\S+)$", re.MULTILINE)
_SCRAPED_EVERY_S = 0.5


class TierProcess(NamedTuple):
    """A tier that is being started: where it will listen for samples and for Prometheus, and its CPU time."""

    address: str
    metrics: str
    meter: Meter


@contextmanager
def tier(kind: str, bundle: Path, core: int, **flags: object) -> Iterator[TierProcess]:
    """A device, fog or cloud program on one core; flags: settings, `__` for a dot."""
    port, metrics = free_port(), f"127.0.0.1:{free_port()}"
    command = tier_command(kind, bundle, port, metrics=metrics, log_level="warning", **flags)
    with running(command, core, f"devices-{kind}") as process:
        yield TierProcess(f"127.0.0.1:{port}", metrics, process.meter)


def _settle_on(core: int) -> None:
    os.sched_setaffinity(0, {core})
    allow_files()


def allow_files() -> None:
    """Let this process and those that it starts hold as many connections as the system lets them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def load_process(core: int) -> Iterator[Callable[..., T]]:
    """A process on one core; what it yields runs a function of a module there and returns its result."""
    context = get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=_settle_on, initargs=(core,)
    ) as pool:
        pool.submit(os.getpid).result()  # it is up before it has anything to time
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def in_flight(metrics: str) -> int:
    """Samples under way in a tier, as its /metrics says."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        found = _IN_FLIGHT.search(page.read().decode())
    return int(float(found[1])) if found else 0


@contextmanager
def watched_in_flight(metrics: str) -> Iterator[list[int]]:
    """What `in_flight` says every half second meanwhile."""
    seen: list[int] = []
    ended = Event()

    def watch() -> None:
        while not ended.wait(_SCRAPED_EVERY_S):
            seen.append(in_flight(metrics))

    watching = Thread(target=watch, name="in flight")
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()
