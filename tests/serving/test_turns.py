"""Whose turn it is: one origin after the other, and who floods when those had theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from offramp.rpc import Origin, SampleId
from offramp.serving.turns import FairQueue, Shares, Turn

LATER = float("inf")


class Stage:
    """A queue and what came to it, at a time that the test sets."""

    def __init__(self) -> None:
        self.shares = Shares()
        self.queue = FairQueue(self.shares)
        self.now = 100.0

    def come(self, device: str, *sequences: int) -> None:
        for sequence in sequences:
            origin = Origin(device, 1)
            work: Any = SimpleNamespace(sample=SimpleNamespace(id=SampleId(origin, sequence)))
            self.shares.add(origin, self.now)
            self.queue.put(Turn(work, LATER, lambda _: None))

    def went(self, count: int) -> list[int]:
        """The sequences of the next ones."""
        return [self.queue.take().work.sample.id.sequence for _ in range(count)]

    def is_over(self, device: str) -> bool:
        return self.shares.is_over(Origin(device, 1))

    def ahead_of(self, device: str) -> int:
        return self.queue.ahead_of(Origin(device, 1))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_origins_have_their_turn_one_after_the_other(stage: Stage) -> None:
    stage.come("one", 0, 1, 2)
    stage.come("two", 10, 11)
    stage.come("three", 20, 21)
    assert stage.went(7) == [0, 10, 20, 1, 11, 21, 2]
    assert len(stage.queue) == 0


def test_nobody_waits_behind_who_floods(stage: Stage) -> None:
    stage.come("quiet", 10)
    stage.come("flood", *range(9))
    assert stage.is_over("flood")
    stage.come("other", 20)
    assert stage.went(2) == [10, 20]
    assert stage.queue.is_excess
    assert stage.went(1) == [0]
    stage.come("other", 21)
    assert not stage.queue.is_excess
    assert stage.went(3) == [21, 1, 2]


def test_who_floods_has_a_turn_now_and_then_where_others_always_wait(stage: Stage) -> None:
    for device in ("a", "b", "c"):
        stage.come(device, *range(100, 106))
    stage.come("flood", *range(30))
    went = stage.went(20)
    assert [place for place, sequence in enumerate(went) if sequence < 100] == [4, 9, 14, 19]


def test_all_that_an_origin_has_waits_where_its_next_one_does(stage: Stage) -> None:
    stage.come("one", 0, 1)
    stage.come("two", 10)
    stage.come("one", *range(2, 9))  # now it is far more
    assert stage.went(3) == [10, 0, 1]
    stage.now += 10.0
    stage.come("one", 9)
    assert not stage.is_over("one")
    assert stage.went(7) == list(range(2, 9))


def test_two_alike_and_one_alone_are_never_over(stage: Stage) -> None:
    stage.come("one", *range(100))
    assert not stage.is_over("one")
    stage.come("two", *range(100))
    assert not stage.is_over("one")
    assert not stage.is_over("two")


def test_what_came_long_ago_counts_no_more(stage: Stage) -> None:
    stage.come("two", *range(5))
    stage.come("one", *range(50))
    assert stage.is_over("one")
    stage.now += 0.6
    stage.come("two", 0)
    assert stage.is_over("one")  # what came in the period before counts
    stage.now += 0.6
    stage.come("two", 0)
    assert not stage.is_over("one")
    stage.come("one", *range(50))
    stage.now += 60.0
    stage.come("two", 0)
    assert not stage.is_over("one")


def test_who_waits_long_is_who_has_much_in_the_queue(stage: Stage) -> None:
    stage.come("two", 10, 11, 12)
    stage.come("three", 20)
    stage.come("four", 30)
    assert stage.ahead_of("two") == 5
    assert stage.ahead_of("three") == 5  # at most: two turns of each
    assert stage.ahead_of("new") == 3
    stage.come("flood", *range(10))
    assert stage.ahead_of("new") == 3
    assert stage.ahead_of("flood") == 15
