"""Who may come in: a bounded number of samples, shared fairly among those who send them, and nothing hopeless."""

from __future__ import annotations

import time
from collections.abc import Callable

from offramp.errors import TierUnavailable
from offramp.rpc import Origin, Sample, Tier
from offramp.serving.batching import Batcher

# Of the time that a sample has left, what its first stage may take: the rest is for the batch that it comes into, which
# ends for all at once, and for the way back. With a queue as long as the deadlines allow, batches would be of one.
# Below a device there is nobody who could answer instead, so that it refuses only what is hopeless.
_SPENT_HERE = {Tier.DEVICE: 1.0, Tier.FOG: 0.8, Tier.CLOUD: 0.8}


class Admission:
    """Counts the samples in flight, in all and of each origin; most: how many there may be.

    see: hears of each sample how near this tier is to refusing it, 1 where it is refused, and the time.
    """

    def __init__(
        self, tier: Tier, most: int, see: Callable[[float, float], None] | None = None
    ) -> None:
        self.most, self.is_draining, self._see = most, False, see
        self._spent_here = _SPENT_HERE[tier]
        self._by_origin: dict[Origin, int] = {}
        self.in_flight = 0

    def enter(self, origin: Origin) -> None:
        """One more, whether or not it may stay."""
        self.in_flight += 1
        self._by_origin[origin] = self._by_origin.get(origin, 0) + 1

    def leave(self, origin: Origin) -> None:
        """One less."""
        self.in_flight -= 1
        self._by_origin[origin] -= 1
        if not self._by_origin[origin]:
            del self._by_origin[origin]

    def refuse_excess(self, sample: Sample, batcher: Batcher) -> None:
        """Refuse at once what this tier has no room for, or could not compute before its deadline.

        When it is full, an origin that has less than its share of it may still go in, up to twice the limit in all.
        Raises TierUnavailable.
        """
        if self.is_draining:
            raise TierUnavailable("unreachable", "this tier is shutting down")
        needed_s = batcher.needed_s(sample.id.origin, sample.boundary)
        left_s = sample.deadline - time.monotonic() if needed_s else 0.0
        if self._see is not None:
            waiting = needed_s / (self._spent_here * left_s) if left_s > 0 else 0.0
            self._see(max(self.in_flight / self.most, waiting), time.monotonic())
        if self.in_flight > self.most:
            share = max(1.0, self.most / len(self._by_origin))  # where there are many, one each
            if self._by_origin[sample.id.origin] > share or self.in_flight > 2 * self.most:
                raise TierUnavailable("overloaded", f"{self.most} samples are in flight here")
        if left_s > 0 and needed_s > self._spent_here * left_s:
            raise TierUnavailable("overloaded", f"the queue is longer than the {left_s:.3g} s left")
