"""Three tiers as real processes on free ports of this machine, for demonstrations, benchmarks and tests.

device --> fog --> cloud                                        over loopback
device --> link --> fog --> link --> cloud                      each link a process too, where one is asked for
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from offramp.bundle import load_bundle
from offramp.client import Client
from offramp.errors import OfframpError, TierUnavailable
from offramp.links.engines.endpoints import parse_endpoint
from offramp.links.running import RunningLink, running_link
from offramp.links.timeline import Timeline

_CONNECTED_S = 10.0
_READY = re.compile(r"ready (\w+) listen=(\S+) metrics=(\S+)")


class RunningTier(NamedTuple):
    """A tier's process, and where it listens for samples and for Prometheus."""

    process: subprocess.Popen[str]
    listen: str
    metrics: str


def start_tier(tier: str, bundle: Path, flags: Mapping[str, object]) -> RunningTier:
    """A tier that is ready to serve. Raises OfframpError where it ends instead; its log on stderr says why."""
    command = [sys.executable, "-m", f"offramp_{tier}", "--bundle", str(bundle)]
    settings = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "log_level": "warning"}
    for name, value in {**settings, **flags}.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    line = process.stdout.readline() if process.stdout else ""
    ready = _READY.match(line)
    if ready is None:
        process.kill()
        raise OfframpError(f"{tier}: ended before it was ready (exit code {process.wait()})")
    return RunningTier(process, ready[2], ready[3])


class LinksBetween(NamedTuple):
    """What lies between the tiers: a timeline by the tier below it, and the engine of all of them."""

    timelines: Mapping[str, Timeline]
    engine: str


_LOOPBACK = LinksBetween({}, "")


class Deployment:
    """Tiers from the cloud down to the device, connected; a context manager.

    last_stages: by tier, how far it goes (-1: it only passes on); tiers that are left out are not started.
    machines: by tier, the profile of the machine that it stands for.
    """

    def __init__(
        self,
        bundle: Path,
        last_stages: Mapping[str, int],
        *,
        between: LinksBetween = _LOOPBACK,
        machines: Mapping[str, str] | None = None,
    ) -> None:
        self._bundle, self._last_stages = bundle, last_stages
        self._between, self._machines = between, machines or {}
        self._running_links = ExitStack()
        self.tiers: dict[str, RunningTier] = {}
        self.links: dict[str, RunningLink] = {}

    def __enter__(self) -> Deployment:
        above = ""
        try:
            for tier in ("cloud", "fog", "device"):
                if tier in self._last_stages:
                    above = self._start(tier, above)
            self._wait_connected()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, tier: str, above: str) -> str:
        """Start a tier, and first the link to the tier above; returns where the tier listens."""
        flags: dict[str, object] = {"plan.last_stage": self._last_stages[tier]}
        if tier in self._machines:
            flags["tier_profile"] = self._machines[tier]
        if above:
            flags["uplink.address"] = self._linked(tier, above)
        self.tiers[tier] = start_tier(tier, self._bundle, flags)
        return self.tiers[tier].listen

    def _linked(self, tier: str, above: str) -> str:
        timeline = self._between.timelines.get(tier)
        if timeline is None:
            return above
        target = parse_endpoint("uplink", above)
        link = running_link(timeline, self._between.engine, target)
        self.links[tier] = self._running_links.enter_context(link)
        return str(self.links[tier].address)

    def _wait_connected(self) -> None:
        """Return once a sample has gone all the way: a tier is ready before its uplink is."""
        manifest = load_bundle(self._bundle).manifest
        takes = manifest.network.takes
        black = np.zeros(takes.shape, takes.dtype)
        last, until = next(iter(self.tiers)), time.monotonic() + _CONNECTED_S
        with Client(self.device, policy="final-exit") as client:
            while str(client.infer(black).tier) != last:
                if time.monotonic() > until:
                    raise TierUnavailable("unreachable", f"the device does not reach the {last}")

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def device(self) -> str:
        """HOST:PORT of the device."""
        return self.tiers["device"].listen

    def stop(self) -> None:
        """End all tiers, the device first, then the links; a tier that does not end within 15 s is killed."""
        for name in ("device", "fog", "cloud"):
            if name not in self.tiers:
                continue
            process = self.tiers[name].process
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        self._running_links.close()
