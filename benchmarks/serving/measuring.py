"""CPU time and memory of a server: of all its processes, whatever they start and however they leave their group.

    control group  cpuacct.usage (v1, ns) or cpu.stat (v2, us)   exact, and keeps what has ended
    /proc          utime + stime of the tree, children included  in ticks of 10 ms; where no group can be made

A record says which one it was (`Meter.source`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

_V1, _V2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
_EMPTY_S = 5.0
_TICKS_HZ = os.sysconf("SC_CLK_TCK")
_numbers = count()


class Meter(Protocol):
    """Reads what a set of processes has used so far; can be handed to another process."""

    @property
    def source(self) -> str:
        """Where the figures come from."""

    def cpu_s(self) -> float:
        """Seconds of CPU time so far, user and system, of all processes there are or were."""

    def process_ids(self) -> list[int]:
        """The processes that there are."""


@dataclass(frozen=True, slots=True)
class GroupMeter:
    """A control group of its own; `usage` is the file with the CPU time."""

    folder: Path
    usage: str

    @property
    def source(self) -> str:
        """The file's name."""
        return f"control group, {self.usage}"

    def cpu_s(self) -> float:
        """From nanoseconds (cpuacct.usage) or the line usage_usec (cpu.stat)."""
        text = (self.folder / self.usage).read_text()
        if self.usage == "cpuacct.usage":
            return int(text) / 1e9
        fields = dict(line.split() for line in text.splitlines())
        return int(fields["usage_usec"]) / 1e6

    def process_ids(self) -> list[int]:
        """The members of the group."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]


@dataclass(frozen=True, slots=True)
class TreeMeter:
    """The tree below one process, from /proc."""

    root: int

    @property
    def source(self) -> str:
        """What is added up."""
        return "/proc/PID/stat of the process tree"

    def cpu_s(self) -> float:
        """User and system time of the tree, and of children that were waited for."""
        ticks = 0
        for process_id in self.process_ids():
            with suppress(OSError):
                ticks += sum(int(field) for field in _stat(process_id)[11:15])
        return ticks / _TICKS_HZ

    def process_ids(self) -> list[int]:
        """The process and its descendants."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
        found = [self.root] if self.root in parents else []
        for process_id in found:  # grows while it is walked through
            found += [child for child, parent in parents.items() if parent == process_id]
        return found


def _stat(process_id: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()


def machine_cpu_s() -> float:
    """Seconds that all cores of the machine have been busy so far, to tell how much others took."""
    busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, busy)
    return (user + nice + system + irq + softirq) / _TICKS_HZ


def pss_mb(meter: Meter) -> tuple[float, int]:
    """Memory of all processes, what they share counted once, in MB (10^6 bytes); and how many they are."""
    total, processes = 0, 0
    for process_id in meter.process_ids():
        with suppress(OSError):
            lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            processes += 1
    return total * 1024 / 1e6, processes


def _made_group() -> GroupMeter | None:
    name = f"serving-benchmark-{os.getpid()}-{next(_numbers)}"
    for parent, usage in ((_V1, "cpuacct.usage"), (_V2, "cpu.stat"), (_V2 / "unified", "cpu.stat")):
        if not (parent / "cgroup.procs").exists():
            continue
        with suppress(OSError):
            (parent / name).mkdir()
            if (parent / name / usage).exists():
                return GroupMeter(parent / name, usage)
            (parent / name).rmdir()
    return None


def _remove(folder: Path) -> None:
    """Remove an empty control group. Raises OSError where it has members after 5 s."""
    until = time.monotonic() + _EMPTY_S
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def control_group() -> Iterator[GroupMeter | None]:
    """A control group for one server, removed in the end; None where this system lets nobody make one.

    Its processes have to have ended by then; one that has, but that nobody has waited for, still counts as a member
    for a moment.
    """
    group = _made_group()
    try:
        yield group
    finally:
        if group is not None:
            _remove(group.folder)
