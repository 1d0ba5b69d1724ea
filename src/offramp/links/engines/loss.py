"""Which packets a link loses of its own: Gilbert-Elliott, a step a packet."""

from __future__ import annotations

from numpy.random import Generator

from offramp.links.timeline import Loss


class GilbertElliott:
    """A link's state, good at first. Source: Gilbert 1960; Elliott 1963."""

    def __init__(self, loss: Loss, random: Generator) -> None:
        self._loss, self._random = loss, random
        self._is_bad = False
        self._draws: list[list[float]] = []

    def loses(self) -> bool:
        """Take a step, then say whether the packet is lost."""
        if not self._draws:  # many at once: a single one costs as much as a hundred
            self._draws = self._random.random((1024, 2)).tolist()
        loss, (changes, chance) = self._loss, self._draws.pop()
        if changes < (loss.leave if self._is_bad else loss.enter):
            self._is_bad = not self._is_bad
        return bool(chance < (loss.in_bad if self._is_bad else loss.in_good))
