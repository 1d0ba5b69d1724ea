"""A stream has as many samples under way as its tier answers in time."""

from __future__ import annotations

import asyncio

import pytest
from tests.serving.test_stream import asking, one, streaming
from tests.serving.wire import ScriptedTier, answer

from offramp.errors import TierUnavailable
from offramp.rpc.window import Window


def test_a_window_narrows_by_a_tenth_and_widens_by_one_a_round() -> None:
    window = Window(256)
    for _ in range(3):
        window.narrow(under_way=20)
    assert window.size == 18
    for _ in range(18):
        window.widen()
    assert window.size == 18  # 18.97
    window.widen()
    assert window.size == 19


def test_a_window_stays_between_one_and_the_credits() -> None:
    window = Window(3)
    for _ in range(100):
        window.widen()
    assert window.size == 3
    window.narrow(under_way=1)
    window.narrow(under_way=1)
    assert window.size == 1
    assert Window(0).size == 0
    closed = Window(0)
    closed.narrow(under_way=0)
    assert closed.size == 0


async def test_after_answers_too_late_fewer_go_up_until_answers_are_in_time_again() -> None:
    is_silent = True
    tier = ScriptedTier(lambda _: None if is_silent else answer(), credits_=8)
    async with streaming(tier) as stream:
        late = await asyncio.gather(
            *(asking(stream, one(), 0.1) for _ in range(8)), return_exceptions=True
        )
        assert len(late) == 8
        assert stream.room == 1
        waiting = asking(stream, one(), 5.0)
        await asyncio.sleep(0)
        with pytest.raises(TierUnavailable, match="is behind with what it has") as refused:
            await asking(stream, one())
        assert refused.value.reason == "deadline"  # it is late answers that narrowed the window
        assert refused.value.bytes_up == 0
        is_silent = False
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for _ in range(40):
            await asking(stream, one())
        assert stream.room == 8
