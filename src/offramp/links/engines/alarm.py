"""A timer that rings on time: the event loop's own rounds up to a millisecond.

asyncio's selector waits whole milliseconds (CPython, selectors.py: math.ceil), which made a delay of 5 ms 0.32 ms
too long; a timerfd, which is one more file that the selector waits for, 0.09 ms. Where there is none (not Linux),
the loop's timer does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Protocol

_CLOCK_MONOTONIC = 1  # that of time.monotonic() and loop.time()
_ABSOLUTE = 1


class Alarm(Protocol):
    """Calls back, once a setting, at a time of the loop's clock."""

    def set(self, at_s: float) -> None:
        """Ring then, and not at the time set before; inf: not at all."""

    def close(self) -> None:
        """Never ring again."""


def new_alarm(ring: Callable[[], None]) -> Alarm:
    """The best alarm that this system has, on the running loop."""
    return TimerFile(ring) if sys.platform == "linux" else LoopTimer(ring)


class LoopTimer:
    """An alarm on the loop's own timer."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop, self._ring = asyncio.get_running_loop(), ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """See Alarm."""
        self.close()
        if at_s < inf:
            self._handle = self._loop.call_at(at_s, self._ring)

    def close(self) -> None:
        """See Alarm."""
        if self._handle is not None:
            self._handle.cancel()


class _Setting(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class TimerFile:
    """An alarm on a timerfd; through libc, since Python's own os.timerfd_create came with 3.13."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop, self._ring = asyncio.get_running_loop(), ring
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._setting = _Setting()
        self._at = ctypes.byref(self._setting)
        self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._file, self._rung)

    def _rung(self) -> None:
        with suppress(BlockingIOError):  # set anew between the ring and this call
            os.read(self._file, 8)
            self._ring()

    def set(self, at_s: float) -> None:
        """See Alarm."""
        # An absolute time that has passed rings at once; 0 would disarm, as it shall for inf.
        nanoseconds = 0 if at_s == inf else max(1, int(at_s * 1e9))
        self._setting.at_s, self._setting.at_ns = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self._file, _ABSOLUTE, self._at, None)

    def close(self) -> None:
        """See Alarm."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1
