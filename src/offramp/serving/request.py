"""One sample under way in a tier: it ends once, with an answer, an error, or because its caller has gone.

begin -> waits for a stage (Turn) -> ... -> waits for a hop (a task) -> end() -> deliver
             |                                  |
             +----------- cancel() -------------+--> nobody hears
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from offramp.errors import BundleMismatch, DeadlineExceeded, InvalidInput, TierUnavailable
from offramp.rpc import Answer, Origin
from offramp.serving.turns import Turn
from offramp.serving.work import Work
from offramp.telemetry.metrics import Outcome

Deliver = Callable[[Answer | Exception], None]
Tell = Callable[[Answer], None]


class Request:
    """`deliver` hears the outcome; `over` is told of every end, once, with the name that the metrics count it by.

    tell: hears an answer so far, before; None where nobody wants one.
    """

    __slots__ = (
        "_deliver",
        "_over",
        "_task",
        "began",
        "came_alone",
        "give_up",
        "is_over",
        "origin",
        "tell",
        "turn",
        "work",
    )

    def __init__(
        self,
        origin: Origin,
        deliver: Deliver,
        over: Callable[[Request, Outcome], None],
        tell: Tell | None = None,
        *,
        came_alone: bool = False,
    ) -> None:
        self._deliver, self._over, self.tell = deliver, over, tell
        self.came_alone = came_alone
        self.origin, self.began = origin, time.monotonic()
        self._task: asyncio.Task[Answer] | None = None
        self.work: Work | None = None
        self.turn: Turn | None = None
        self.give_up: Callable[[], None] | None = None  # its hop
        self.is_over = False

    def await_end_of(self, answering: Coroutine[Any, Any, Answer]) -> None:
        """What comes next takes a task of its own: of the coroutine itself, for a cancel may come before it began."""
        self._task = asyncio.create_task(answering)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self.end(error)
        elif error is None:
            self.end(task.result())

    def end(self, outcome: Answer | Exception) -> None:
        """Deliver it, unless the caller has gone."""
        if not self.is_over:
            self._let_go()
            self._over(self, outcome_of(outcome))
            self._deliver(outcome)

    def cancel(self) -> None:
        """The caller has gone: nothing is delivered."""
        if self.is_over:
            return
        turn, give_up, task = self.turn, self.give_up, self._task
        self._let_go()
        if turn is not None:
            turn.give_up()
        if give_up is not None:
            give_up()
        if task is not None:
            task.cancel()
        self._over(self, "cancelled")

    def _let_go(self) -> None:
        """It is over. What it waited for would tell it so: as a circle the two would stay until the next collection."""
        self.is_over = True
        self.turn = self.give_up = self._task = None


def outcome_of(outcome: Answer | Exception) -> Outcome:
    """The name under which the metrics count a sample that ended so."""
    if isinstance(outcome, Answer):
        return "degraded" if outcome.degraded else "answered"
    if isinstance(outcome, InvalidInput):
        return "invalid"
    if isinstance(outcome, BundleMismatch):
        return "mismatch"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    if isinstance(outcome, TierUnavailable):
        return "overloaded" if outcome.reason == "overloaded" else "unavailable"
    return "failed"
