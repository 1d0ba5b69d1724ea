"""One replica of the next tier, and whether it is worth asking.

sample -> breaker closed? -> hop foreseen in time? -> TierStream -> answer, or too late, or lost
             | no               | no                                       |
             +-> refused at once, so that the exit at hand answers         +-> breaker, hop times
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial

from offramp.errors import DeadlineExceeded, OfframpError, TierUnavailable
from offramp.rpc import Reply, Sample, TierStream
from offramp.rpc.pending import Hear
from offramp.serving.breaker import Breaker
from offramp.serving.foresight import HopTime
from offramp.serving.settings import UplinkSettings
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import BreakerState

logger = logging.getLogger(__name__)
GiveUp = Callable[[], None]
_FIRST_PROBE_S = 0.1
_SILENT_S = 1.0  # without a word about its health a tier is gone, or as good as gone


class Replica:
    """A stream with a breaker before it. Start it in a running event loop; close it when done."""

    def __init__(self, stream: TierStream, settings: UplinkSettings, metrics: TierMetrics) -> None:
        self.stream, self._settings, self._metrics = stream, settings, metrics
        self._hops = HopTime(settings.hop_quantile)
        self._breaker = Breaker(
            failures=settings.breaker_failures,
            late_share=settings.breaker_late_share,
            told=self._turned,
        )
        self._probe_s = _FIRST_PROBE_S
        self._probing: asyncio.Task[None] | None = None
        metrics.show_breaker(stream.target, "closed", is_new=True)

    @property
    def is_connected(self) -> bool:
        """Whether its stream is open."""
        return self.stream.is_connected

    @property
    def room(self) -> int:
        """How many samples more it takes now."""
        return self.stream.room if self._breaker.lets_through else 0

    @property
    def load(self) -> tuple[int, int]:
        """How many samples are under way to it, and how many may be."""
        return self.stream.load if self._breaker.lets_through else (0, 0)

    @property
    def is_at_ease(self) -> bool:
        """Whether it takes what can wait."""
        return self.stream.is_at_ease and self._breaker.lets_through

    def start(self) -> None:
        """Begin to connect."""
        self.stream.start()

    def begin(self, sample: Sample, deadline: float, hear: Hear) -> GiveUp:
        """As TierStream.begin; TierUnavailable while the breaker is open, DeadlineExceeded where a hop takes longer."""
        if not self._breaker.lets_through:
            text = f"{self.stream.target} has failed of late"
            raise TierUnavailable(self._breaker.reason, text)
        began = time.monotonic()
        needed_s = self._hops.foreseen_s(began)
        if deadline - began < needed_s:
            raise DeadlineExceeded(f"a hop takes {needed_s:.3g} s")
        try:
            give_up = self.stream.begin(sample, deadline, partial(self._heard, hear, began))
        except TierUnavailable as exc:
            if exc.reason == "unreachable":
                self._breaker.fail(exc.reason)
            raise
        return partial(self._give_up, give_up, self._breaker.begin())

    def _give_up(self, give_up: GiveUp, number: int) -> None:
        self._breaker.give_up(number)
        give_up()

    def _heard(self, hear: Hear, began: float, outcome: Reply | OfframpError) -> None:
        now = time.monotonic()
        if isinstance(outcome, DeadlineExceeded):
            self._hops.learn(now, now - began)
            self._breaker.fail("deadline")
        elif _is_lost(outcome):
            self._breaker.fail("unreachable")
        else:
            self._breaker.succeed()
            if isinstance(outcome, Reply):
                self._hops.learn(now, now - began)
        hear(outcome)

    def _turned(self, state: BreakerState) -> None:
        target = self.stream.target
        self._metrics.show_breaker(target, state)
        if state == "open":
            logger.warning("breaker to %s: open (%s)", target, self._breaker.reason)
            self._hops = HopTime(self._settings.hop_quantile)  # as it was before it failed
            self._probing = asyncio.create_task(self._probe(), name=f"probe of {target}")
            return
        logger.info("breaker to %s: %s", target, state)
        if state == "closed":
            self._probe_s = _FIRST_PROBE_S

    async def _probe(self) -> None:
        """Let one request try once the tier says that it is well, later the more often that was in vain."""
        if not await self._is_alive():
            self._breaker.reason = "unreachable"
            if self.is_connected:  # what swallows everything is no connection
                await self.stream.renew()
        await asyncio.sleep(self._probe_s * random.uniform(0.8, 1.2))  # noqa: S311
        self._probe_s = min(2 * self._probe_s, self._settings.most_backoff_s)
        await self.stream.wait_serving()
        self._breaker.probe()

    async def _is_alive(self) -> bool:
        try:
            await asyncio.wait_for(self.stream.wait_serving(), _SILENT_S)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the stream; what is under way fails."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self.stream.close()
        self._metrics.forget_breaker(self.stream.target)


def _is_lost(outcome: Reply | OfframpError) -> bool:
    """Whether nothing came of it any more; a tier that itself says that it cannot answer is there to say so."""
    is_unreachable = isinstance(outcome, TierUnavailable) and outcome.reason == "unreachable"
    return is_unreachable and not outcome.bytes_down
