"""What goes wrong where nobody waits for it: in a callback of the event loop, or as a coroutine that nobody awaited."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

_COLLECTED_EVERY = 1_000


class Loop:
    """An event loop that raises, after each coroutine, what it had to complain of."""

    def __init__(self, loop: asyncio.AbstractEventLoop, complaints: list[str]) -> None:
        self._loop, self._complaints, self._runs = loop, complaints, 0

    def call_soon(self, *what: Any) -> None:
        """As that of asyncio."""
        self._loop.call_soon(*what)

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        """Run it to its end. Raises AssertionError for a complaint, and whatever it raises."""
        self._loop.run_until_complete(_settled(what))
        self._runs += 1
        if self._runs % _COLLECTED_EVERY == 0:
            gc.collect()
        self.check()

    def check(self) -> None:
        """Raises AssertionError where there was a complaint."""
        if self._complaints:
            raise AssertionError("; ".join(self._complaints))


async def _settled(what: Coroutine[Any, Any, None]) -> None:
    await what
    await asyncio.sleep(0)  # for tasks that were cancelled


@contextmanager
def complaining() -> Iterator[Loop]:
    """A loop of its own, while whatever Python only warns of is a complaint."""
    complaints: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda one: complaints.append(f"{one.object!r}: {one.exc_value!r}")
    try:
        with asyncio.Runner() as runner, warnings.catch_warnings():
            warnings.simplefilter("error")
            loop = runner.get_loop()
            loop.set_exception_handler(
                lambda _, context: complaints.append(
                    f"{context['message']}: {context.get('exception')!r}"
                )
            )
            watched = Loop(loop, complaints)
            yield watched
            gc.collect()  # a coroutine that nobody awaited may lie in a circle of references
            watched.check()
    finally:
        sys.unraisablehook = before
