"""One direction of a link as one queue, whoever's packets they are: no clock, no socket, no event loop.

    push -> [ backlog, at most queue_bytes ] -rate-> [ on its way, for the delay ] -> release
              waits for the curve                      bytes here do not count

Nothing overtakes: where the delay falls from one row to the next, what was sent later waits for what was sent
before. While a row holds, nothing is released and the backlog stands still; what was already on its way
comes out at the row's end, the backlog after it at the rate.

The backlog is bounded here and nowhere else: bytes on their way are the link's, and to count them would
cap the throughput below the product of bandwidth and delay.

What the engine itself takes, from reading a packet to its being read on the other side, is a part of the delay:
own_delay_s is left out of it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Generic, NamedTuple, TypeVar

from offramp.links.engines.curve import Curve

Item = TypeVar("Item")


class Delivery(NamedTuple, Generic[Item]):
    """What has come out, and when it was due."""

    due_s: float
    size_bytes: int
    item: Item


class _Entry(NamedTuple, Generic[Item]):
    end: float  # its end's position on the curve
    arrives_s: float  # when it is across, if nothing holds then
    size_bytes: int
    item: Item


class Pipe(Generic[Item]):
    """The queue of one direction. Times given to its methods never fall."""

    def __init__(self, curve: Curve, queue_bytes: int) -> None:
        self._curve, self._queue_bytes = curve, queue_bytes
        self.own_delay_s = 0.0
        self._entries: deque[_Entry[Item]] = deque()
        self._end = 0.0  # the position up to which the curve is spoken for
        self._last_arrival_s = -inf

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def curve(self) -> Curve:
        """What the direction lets through."""
        return self._curve

    @property
    def queue_bytes(self) -> int:
        """The most that may wait for the rate."""
        return self._queue_bytes

    def backlog_bytes(self, now_s: float) -> float:
        """What waits for the rate, the part of a packet that is still to leave included."""
        return max(0.0, self._end - self._curve.served(now_s))

    def fits(self, size_bytes: int, now_s: float) -> bool:
        """Whether there is room; an empty queue takes a packet of any size."""
        backlog = self.backlog_bytes(now_s)
        return backlog < 1 or backlog + size_bytes <= self._queue_bytes

    def push(self, item: Item, size_bytes: int, now_s: float) -> None:
        """Queue an item, room or not: who may refuse one asks `fits` first."""
        self._end = max(self._end, self._curve.served(now_s)) + size_bytes
        self._append(self._end, size_bytes, item, now_s)

    def _append(self, end: float, size_bytes: int, item: Item, now_s: float) -> None:
        arrives_s = max(self._last_arrival_s, self._across_s(end, now_s))
        self._last_arrival_s = arrives_s
        self._entries.append(_Entry(end, arrives_s, size_bytes, item))

    def _across_s(self, end: float, now_s: float) -> float:
        leaves_s = self._curve.when(end)
        if leaves_s == inf:
            return inf
        leaves_s = max(now_s, leaves_s)  # `when` undoes `served` up to rounding
        return leaves_s + max(0.0, self._curve.delay_s(leaves_s) - self.own_delay_s)

    def next_due_s(self) -> float:
        """When the next item is to be released; inf: not before something changes."""
        if not self._entries or self._entries[0].arrives_s == inf:
            return inf
        return self._curve.opens_s(self._entries[0].arrives_s)

    def release(self, now_s: float) -> list[Delivery[Item]]:
        """Take out, in order, all that is due by now."""
        due: list[Delivery[Item]] = []
        # An item that is not across is not asked whether the row holds: most are not.
        while self._entries and self._entries[0].arrives_s <= now_s:
            due_s = self._curve.opens_s(self._entries[0].arrives_s)
            if due_s > now_s:
                break
            entry = self._entries.popleft()
            due.append(Delivery(due_s, entry.size_bytes, entry.item))
        return due

    def eases_s(self, backlog_bytes: float) -> float:
        """When the backlog will have fallen to that, if nothing more comes."""
        return self._curve.when(self._end - backlog_bytes)

    def follow(self, curve: Curve, queue_bytes: int, now_s: float) -> None:
        """From now on under another curve: nothing is lost, nothing overtakes, and the backlog keeps what it had.

        What had left the bottleneck keeps the time at which it is across.
        """
        left, start = self._curve.served(now_s), curve.served(now_s)
        self._curve, self._queue_bytes = curve, queue_bytes
        entries, self._entries = self._entries, deque()
        self._last_arrival_s = -inf
        self._end += start - left
        for entry in entries:
            if entry.end <= left:
                # What should be across and is still here was held until now.
                self._last_arrival_s = max(entry.arrives_s, now_s)
                left_entry = entry._replace(end=-inf, arrives_s=self._last_arrival_s)
                self._entries.append(left_entry)
            else:
                self._append(entry.end - left + start, entry.size_bytes, entry.item, now_s)
