"""One waiter is woken by what happened before or during its wait, and once by however much."""

import asyncio

import pytest

from offramp.serving.wakeup import Wakeup


async def _is_woken(wakeup: Wakeup) -> bool:
    try:
        await asyncio.wait_for(wakeup.wait(), 0.01)
    except TimeoutError:
        return False
    return True


async def test_a_wait_ends_for_what_happened_before_it_once():
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    assert await _is_woken(wakeup)
    assert not await _is_woken(wakeup)


async def test_a_wait_ends_for_what_happens_meanwhile_once():
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    wakeup.set()
    wakeup.set()  # before the waiter has run
    await waiting
    assert not await _is_woken(wakeup)


async def test_a_cancelled_wait_leaves_the_next_one_as_it_was():
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    wakeup.set()
    assert await _is_woken(wakeup)
