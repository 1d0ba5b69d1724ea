"""What a tier's heap gives back, in a process of its own: the settings are for all of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from offramp.serving import heap

_PROGRAM = """
from pathlib import Path
from offramp.serving.heap import keep_heap_small, trim_heap
keep_heap_small()
def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
before, kept = resident_mb(), []
for size in (200_000, 12_000):
    blocks = []
    for _ in range(20_000_000 // size):
        blocks.append(bytearray(size))
        kept.append(bytearray(1_000))
    filled = resident_mb()
    del blocks
    trim_heap()
    print(filled - before, resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_free_goes_back_when_the_heap_is_trimmed() -> None:
    lines = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in lines:
        filled_mb, left_mb = map(float, line.split())
        assert filled_mb > 15
        assert left_mb < 8


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))

    def refuse(name: object) -> None:
        raise AssertionError(name)

    monkeypatch.setattr("ctypes.CDLL", refuse)
    heap.keep_heap_small()
    heap.trim_heap()
