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
for size in (3_000_000, 3_000_000, 12_000):  # glibc by itself keeps the second lot
    blocks = []
    for _ in range(21_000_000 // size):
        blocks.append(bytearray(size))
        kept.append(bytearray(1_000))
    filled = resident_mb()
    del blocks
    if size < 100_000:
        trim_heap()
    print(filled - before, resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_go_back_at_once_and_small_ones_when_trimmed() -> None:
    lines = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in lines:
        filled_mb, left_mb = map(float, line.split())
        assert filled_mb > 15
        assert left_mb < filled_mb / 2


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))

    def refuse(name: object) -> None:
        raise AssertionError(name)

    monkeypatch.setattr("ctypes.CDLL", refuse)
    heap.keep_heap_small()
    heap.trim_heap()
