"""Three tiers as processes on fixed ports, so that one can be ended, silenced and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.serving.running import free_port

_METRIC = re.compile(r"^(offramp_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
Counted = Mapping[tuple[str, str], float]


class TierRun:
    """One tier; start() it, and end() it in any state."""

    def __init__(self, name: str, bundle: Path, **settings: object) -> None:
        self.name = name
        self.listen, self.metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        flags = {"bundle": bundle, "listen": self.listen, "metrics": self.metrics, **settings}
        self._command = [sys.executable, "-m", f"offramp_{name}"]
        for key, value in flags.items():
            self._command += [f"--{key}", str(value)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and return once it is ready. Raises RuntimeError where it is not."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("OFFRAMP_")}
        self._process = subprocess.Popen(  # noqa: S603
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=kept,
        )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line.startswith("ready"):
            raise RuntimeError(f"{self.name} did not start: {line!r}")

    @property
    def process_id(self) -> int:
        """Of the one that runs."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """A signal to it."""
        os.kill(self.process_id, number)

    def wait(self) -> None:
        """Return once it has ended."""
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def end(self) -> None:
        """Kill it where it runs, even where it is stopped."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def counted(self) -> dict[tuple[str, str], float]:
        """What /metrics has now, by name and labels (without the tier's)."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as page:
            text = page.read().decode()
        found = {}
        for name, labels, value in _METRIC.findall(text):
            kept = [one for one in labels.split(",") if one and not one.startswith("tier=")]
            found[name, ",".join(kept)] = float(value)
        return found


def total(counted: Counted, name: str, label: str = "") -> float:
    """The sum of a metric over its labels, or over those that hold this text."""
    return sum(value for (one, labels), value in counted.items() if one == name and label in labels)


@contextmanager
def running_tiers(
    bundle: Path, between: Callable[[str], str] = lambda fog: fog, **settings: object
) -> Iterator[tuple[TierRun, TierRun, TierRun]]:
    """Device, fog and cloud, ready. between: what the device dials to reach that address; settings: of all three."""
    with ExitStack() as stack:
        cloud = TierRun("cloud", bundle, **settings)
        fog = TierRun("fog", bundle, **{"uplink.address": cloud.listen, **settings})
        dialled = between(fog.listen)
        device = TierRun("device", bundle, **{"uplink.address": dialled, **settings})
        for tier in (cloud, fog, device):
            stack.callback(tier.end)
            tier.start()
        yield device, fog, cloud
