"""A link in a process of its own, for whoever puts one between two ends: rehearsals, validation, benchmarks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offramp.errors import InvalidInput, TierUnavailable
from offramp.links.control import ask
from offramp.links.engines.endpoints import Endpoint, parse_endpoint
from offramp.links.timeline import Timeline

_START_S = 20.0


class RunningLink:
    """A link that runs in another process."""

    def __init__(self, control: str, folder: Path) -> None:
        self._control, self._folder = control, folder
        self.status = ask(control, {"do": "status"})
        self.address: Endpoint = parse_endpoint("listen", self.status["listen"])

    def put(self, timeline: Timeline) -> float:
        """Put another timeline in force; returns when its first row started, on the monotonic clock."""
        path = self._folder / "rehearsal.csv"
        timeline.write(path)
        self.status = ask(self._control, {"do": "timeline", "timeline": str(path)})
        return float(self.status["origin_s"])

    def cut(self, seconds: float) -> None:
        """Let nothing through for so long; what was under way comes afterwards, as over a mobile link."""
        ask(self._control, {"do": "cut", "state": "hold", "seconds": seconds})


@contextmanager
def running_link(timeline: Timeline, engine: str, target: Endpoint) -> Iterator[RunningLink]:
    """A link to the target in a process of its own. Raises TierUnavailable where it does not start."""
    with tempfile.TemporaryDirectory(prefix="offramp-link-") as name:
        folder = Path(name)
        control, file = f"{name}/control", folder / "timeline.csv"
        timeline.write(file)
        flags = {"timeline": file, "listen": "127.0.0.1:0", "target": target, "engine": engine}
        command = [sys.executable, "-m", "offramp.cli", "link", "run", "--control", control]
        for flag, value in flags.items():
            command += [f"--{flag}", str(value)]
        with (folder / "log").open("w+") as log:
            process = subprocess.Popen(command, stderr=log)  # noqa: S603
            try:
                yield _started(process, control, folder)
            finally:
                process.terminate()
                process.wait()


def _started(process: subprocess.Popen[bytes], control: str, folder: Path) -> RunningLink:
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            return RunningLink(control, folder)
        except InvalidInput:
            time.sleep(0.1)
    said = (folder / "log").read_text().strip().splitlines()
    last = said[-1].removeprefix("offramp: ") if said else "it said nothing"
    raise TierUnavailable("unreachable", f"the link did not start: {last}")
