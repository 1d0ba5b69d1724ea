"""How many samples to have under way at a tier: what it grants, or fewer while they come back too late.

Credits bound a tier's memory; how many samples it can answer within their deadlines depends on these and on its load,
which nobody knows but by trying. So the sender does as TCP does with a path that it does not know (RFC 5681, section
3.1): one more for every window of answers in time, and a tenth fewer than there are for each that was refused or late.
"""

from __future__ import annotations

_FEWER = 0.9


class Window:
    """Of one open stream. credits: the most that the tier takes."""

    def __init__(self, credits_: int) -> None:
        self._credits = credits_
        self._size = float(credits_)

    @property
    def size(self) -> int:
        """How many may be under way."""
        return int(self._size)

    def widen(self) -> None:
        """An answer came in time."""
        if self._size < self._credits:
            self._size = min(self._size + 1.0 / max(self._size, 1.0), float(self._credits))

    def narrow(self, under_way: int) -> None:
        """One of so many was refused, or not answered in time; one is always worth a try."""
        self._size = max(min(self._size, _FEWER * under_way), min(1.0, float(self._credits)))
