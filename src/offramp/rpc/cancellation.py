"""What gRPC means by CancelledError: somebody cancels the task that waits, or the channel of the call was closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from offramp.errors import TierUnavailable


def is_cancelled() -> bool:
    """Whether somebody cancels the task that this runs in."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextmanager
def closed_is_unavailable(text: str) -> Iterator[None]:
    """Around a call: raises TierUnavailable with this text where its channel is closed meanwhile.

    A cancellation of the task goes through.
    """
    try:
        yield
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise TierUnavailable("unreachable", text) from exc
