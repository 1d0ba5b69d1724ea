"""A server as a process: pinned, in a control group of its own, and gone in the end with all that it started.

sh: join the group -> taskset -> the server's own command
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.measuring import Meter, TreeMeter, control_group

_ENDS_S = 10.0
_LOGS = Path("runs/serving/logs")


class Command(NamedTuple):
    """What a shell would be told, and the variables that it needs beside this process's own."""

    words: Sequence[str]
    variables: Mapping[str, str] = {}


class Running(NamedTuple):
    """A server that was started at `began`, a time of time.monotonic(); it may not be ready yet."""

    process: subprocess.Popen[bytes]
    meter: Meter
    began: float


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cores() -> tuple[int, int]:
    """The core of the servers and that of the load generator; one and the same where there is no second."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def _environment(command: Command) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()), **command.variables}


def _end(process: subprocess.Popen[bytes], meter: Meter) -> None:
    """SIGTERM to the server; SIGKILL to what is left of it after 10 s, and to what outlives it."""
    ours = set(meter.process_ids())
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDS_S)
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until:
        left = [one for one in ours | set(meter.process_ids()) if _is_alive(one)]
        if not left:
            break
        for one in left:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.wait()


def _is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def running(command: Command, core: int, name: str) -> Iterator[Running]:
    """A started server on one core; what it says is in runs/serving/logs/NAME.log."""
    _LOGS.mkdir(parents=True, exist_ok=True)
    with control_group() as group, (_LOGS / f"{name}.log").open("wb") as log:
        join = f"echo $$ > {shlex.quote(str(group.folder))}/cgroup.procs && " if group else ""
        script = f"{join}exec taskset -c {core} {shlex.join(command.words)}"
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", script],
            env=_environment(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        meter: Meter = group or TreeMeter(process.pid)
        try:
            yield Running(process, meter, began)
        finally:
            _end(process, meter)
