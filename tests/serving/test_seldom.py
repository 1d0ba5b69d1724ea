"""Lines of which there would be too many."""

from __future__ import annotations

from offramp.serving.seldom import Seldom


def test_one_in_ten_seconds_is_said_with_the_count_of_those_that_it_stands_for() -> None:
    times = [0.0, 1.0, 9.9, 10.0, 10.1, 25.0, 34.9, 35.0]
    clock = iter(times)
    lines = Seldom(lambda: next(clock))
    assert [lines.add() for _ in times] == [1, 0, 0, 3, 0, 2, 0, 2]
