"""A link as a program: an engine, its metrics, and a way to change it, from start to SIGTERM.

profile or file -> timeline -> engine on an address        control: another timeline, cut, restore
                                 |
                                 +-> /metrics
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from offramp.errors import InvalidSettings
from offramp.links.control import Command, ControlServer, Cut, Restore, SetProfile, SetTimeline
from offramp.links.engines.choosing import Engine, Name, build
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.link import WAYS, Row
from offramp.links.metrics import LinkMetrics
from offramp.links.own_delay import measure_own_delay_s
from offramp.links.timeline import State, Timeline, read_timeline
from offramp.telemetry import Exposition

logger = logging.getLogger(__name__)

Compile = Callable[[str, int | None], Timeline]  # a profile's name and a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a link is told; empty addresses: no metrics, no control."""

    engine: Name
    listen: Endpoint
    target: Endpoint
    metrics: str = ""
    control: str = ""


class Emulator:
    """One link. compile_named makes the timeline of a profile that control asks for."""

    def __init__(self, settings: Settings, timeline: Timeline, compile_named: Compile) -> None:
        self._settings, self._compile = settings, compile_named
        self._loop = asyncio.get_running_loop()
        self.metrics = LinkMetrics()
        self._control = ControlServer(settings.control, self.obey) if settings.control else None
        self._exposition: Exposition | None = None
        self.address = settings.listen
        self._own_delay_s = 0.0
        try:
            self.engine: Engine = build(
                settings.engine, timeline, settings.listen, settings.target, self.metrics
            )
        except OSError as exc:
            raise InvalidSettings("engine", f"{settings.engine}: {exc.strerror or exc}") from exc

    async def start(self) -> None:
        """Let traffic through. Raises InvalidSettings naming what cannot be had."""
        self._own_delay_s = await measure_own_delay_s(self._settings.engine)
        self.engine.link.allow_for(self._own_delay_s)
        self.metrics.made_up_for(self._own_delay_s)
        try:
            self.address = await self.engine.start()
        except OSError as exc:
            message = f"{self._settings.listen}: {exc.strerror or exc}"
            raise InvalidSettings("listen", message) from exc
        self._tell()
        if self._settings.metrics:
            self._exposition = Exposition(self._settings.metrics, self.metrics.registry)
        if self._control is not None:
            await self._control.start()

    async def close(self) -> None:
        """Let go of everything."""
        if self._control is not None:
            await self._control.close()
        await self.engine.close()
        if self._exposition is not None:
            self._exposition.close()

    def _tell(self) -> None:
        link = self.engine.link
        self.metrics.watch(link, self.engine.name, self.engine.facts()["congestion"])
        logger.info(
            "%s (%s, seed %d) from %s to %s by engine %s, its own delay of %.2f ms made up for: %s",
            *(link.timeline.name, link.timeline.kind, link.timeline.seed),
            *(self.address, self._settings.target, self.engine.name, 1e3 * self._own_delay_s),
            self.engine.facts(),
        )
        for way in WAYS:
            if link.is_clipped(way):
                logger.warning(
                    "rates %s above %g Mbit/s are clipped to it: the limit of engine %s",
                    *(way, link.limit_mbit, self.engine.name),
                )

    async def obey(self, command: Command) -> dict[str, Any]:
        """Do what control asks; returns what is then in force. Raises InvalidInput, and then nothing changed."""
        link = self.engine.link
        match command:
            case SetProfile():
                # In a thread: compiling takes longer than a packet may wait.
                timeline = await asyncio.to_thread(self._compile, command.profile, command.seed)
                link.switch(timeline, self._loop.time())
            case SetTimeline():
                timeline = await asyncio.to_thread(read_timeline, command.timeline)
                link.switch(timeline, self._loop.time())
            case Cut():
                now_s = self._loop.time()
                until_s = inf if command.seconds is None else now_s + command.seconds
                link.cut(now_s, until_s, State[command.state.upper()])
                logger.info("cut (%s), seconds: %s", command.state, command.seconds)
            case Restore():
                link.restore(self._loop.time())
                logger.info("restored")
            case _:
                return self.status()
        self.engine.changed()
        if isinstance(command, SetProfile | SetTimeline):
            self._tell()
        return self.status()

    def status(self) -> dict[str, Any]:
        """What is in force; `origin_s` is the first row's start on the machine's monotonic clock."""
        link, now_s = self.engine.link, self._loop.time()
        cut_until_s = link.cut_until_s(now_s)
        return {
            "engine": self.engine.name,
            **self.engine.facts(),
            "listen": str(self.address),
            "profile": link.timeline.name,
            "kind": link.timeline.kind,
            "seed": link.timeline.seed,
            "own_delay_ms": round(1e3 * self._own_delay_s, 3),
            "limit_mbit": link.limit_mbit if link.limit_mbit < inf else None,
            "clipped": [way for way in WAYS if link.is_clipped(way)],
            "origin_s": link.origin_s,
            "cut": cut_until_s is not None,
            "cut_left_s": None if cut_until_s in (None, inf) else cut_until_s - now_s,
            **{way: _row(link.row(way, now_s)) for way in WAYS},
        }


def _row(row: Row) -> dict[str, Any]:
    return {
        "delay_ms": round(row.delay_s * 1e3, 3),
        "rate_mbit": round(row.rate_bytes_s / 125_000, 3),
        "state": row.state.name.lower(),
    }


async def run_emulator(settings: Settings, timeline: Timeline, compile_named: Compile) -> None:
    """Run a link until SIGTERM or SIGINT. Raises InvalidSettings naming what cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    emulator = Emulator(settings, timeline, compile_named)
    try:
        await emulator.start()
        await stop.wait()
    finally:
        await emulator.close()
    logger.info("stopped")
