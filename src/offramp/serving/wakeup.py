"""A wake-up for one waiter: asyncio.Event without its queue of waiters, 760 bytes that every idle stream would hold."""

from __future__ import annotations

import asyncio


class Wakeup:
    """set() ends the wait() under way, or else the next one. One task waits at a time."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Something has happened; as often as it does until the waiter is awake, it wakes once."""
        self._is_set = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Return once something has happened since the last wait() returned: maybe before this one."""
        if not self._is_set:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._is_set = False
