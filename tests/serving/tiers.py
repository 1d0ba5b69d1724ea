"""Tiers for tests: composed in this process, or as the three programs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from offramp.rpc import Tier
from offramp.serving.composition import Parts, compose
from offramp.serving.settings import TierSettings

LOCAL = "127.0.0.1:0"
_METRIC = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@asynccontextmanager
async def running(
    tier: Tier,
    bundle: Path,
    last_stage: int,
    above: str | None = None,
    *,
    reserve_s: float = 0.01,
    connected: bool = True,
    **settings: Any,
) -> AsyncIterator[Parts]:
    """A started tier on free ports of this process; with another one above, connected to it."""
    if above is not None:
        settings["uplink"] = {"address": above, "reserve_s": reserve_s}
    model = TierSettings.model_validate(
        {
            "bundle": bundle,
            "listen": LOCAL,
            "metrics": LOCAL,
            "plan": {"last_stage": last_stage},
            "drain_s": 5.0,
            **settings,
        }
    )
    parts = compose(tier, model)
    await parts.start()
    try:
        if above is not None and connected:
            await eventually(lambda: parts.uplink.is_connected)
        yield parts
    finally:
        await parts.stop()


async def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Return once the condition holds. Raises TimeoutError where it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{condition} did not become true within {timeout_s} s")
        await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """The same, blocking."""
    asyncio.run(eventually(condition, timeout_s))


def scrape(address: str) -> dict[tuple[str, str], float]:
    """The samples that /metrics shows, by name and labels (as text, without the tier's)."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = {}
    for line in lines:
        if (match := _METRIC.fullmatch(line)) is not None:
            labels = [p for p in (match[2] or "").split(",") if p and not p.startswith("tier=")]
            found[match[1], ",".join(labels)] = float(match[3])
    return found


class Program:
    """One of the three programs, ready on free ports or the given one."""

    def __init__(
        self, tier: str, bundle: Path, *flags: str, listen: str = LOCAL, **popen: Any
    ) -> None:
        command = program(tier, "--bundle", str(bundle), "--listen", listen, "--metrics", LOCAL)
        self.process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            **{"stderr": subprocess.DEVNULL, **popen},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.fullmatch(r"ready (\w+) listen=(\S+) metrics=(\S+)(?: health=(\S+))?\n", line)
        assert match is not None, f"{tier} said {line!r}"
        self.listen, self.metrics, self.health = match[2], match[3], match[4]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def program(tier: str, *flags: str) -> list[str]:
    """The command of a tier's program, as installed beside this Python."""
    return [str(Path(sys.executable).with_name(f"offramp-{tier}")), *flags]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without any tier's settings, and with these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    return {**kept, **variables}
