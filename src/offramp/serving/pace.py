"""A tier that stands for a slower machine: its stages compute as fast as they can, and then wait.

computing |====|                 as long as it takes here
waiting        |-----------|     (slowdown - 1) times as long, in the inference thread, so that no other batch gets in
deciding                   |=|   afterwards, so that an exit rule sees the time that is left by then
"""

from __future__ import annotations

import time


class Stretch:
    """One batch's time in a stage, from when this is made; wait() may be called more than once."""

    def __init__(self, slowdown: float) -> None:
        self._slowdown = slowdown
        self._began = time.monotonic()
        self._waited_s = 0.0

    def wait(self) -> None:
        """Return once `slowdown` times the time computed so far has passed; at 1 that is now."""
        if self._slowdown == 1.0:
            return
        before = time.monotonic()
        computed_s = before - self._began - self._waited_s
        owed_s = computed_s * (self._slowdown - 1.0) - self._waited_s
        if owed_s > 0.0:
            time.sleep(owed_s)
            self._waited_s += time.monotonic() - before
