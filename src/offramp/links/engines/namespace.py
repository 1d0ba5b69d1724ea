"""A network namespace of our own that lasts as long as one thread does.

Whatever runs in that thread (a socket made, a program started) belongs to the namespace, and stays there; the
rest of the process does not. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET

Value = TypeVar("Value")


class Namespace:
    """A fresh namespace, until close(). Raises OSError where this process may not make one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "namespace")
        try:
            self.path = self.call(_unshare)
        except OSError:
            self.close()
            raise

    def call(self, function: Callable[[], Value]) -> Value:
        """What the function returns, run in the namespace."""
        return self._thread.submit(function).result()

    def run(self, command: Sequence[str]) -> None:
        """Run a program in the namespace. Raises OSError with its last line where it fails."""
        self.call(lambda: run(command))

    def close(self) -> None:
        """The namespace goes with the last socket in it."""
        self._thread.shutdown()


def run(command: Sequence[str]) -> None:
    """Run a program. Raises OSError with the last line that it said where it fails or is not there."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(errno.EIO, f"{' '.join(command)}: {said[-1] if said else 'failed'}")


def _unshare() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a network namespace: {os.strerror(number)}")
    return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
