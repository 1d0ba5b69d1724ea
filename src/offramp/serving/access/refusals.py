"""Refusals, counted each and logged seldom: whoever is refused may come back a thousand times a second."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from offramp.rpc.tls import Refusal
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Side

logger = logging.getLogger(__name__)
_EVERY_S = 10.0


@dataclass(slots=True)
class _Quiet:
    until: float = 0.0
    unsaid: int = 0


class Refusals:
    """Those of one tier: downstream of its callers by it, upstream of it and the next tier by each other."""

    def __init__(self, metrics: TierMetrics, side: Side) -> None:
        self._metrics, self._side = metrics, side
        self._quiet: dict[Refusal, _Quiet] = {}

    def add(self, reason: Refusal, who: str) -> None:
        """One more; one line in 10 s at most says who it was, and how many there were that no line names."""
        self._metrics.count_refusal(self._side, reason)
        quiet = self._quiet.setdefault(reason, _Quiet())
        now = time.monotonic()
        if now < quiet.until:
            quiet.unsaid += 1
            return
        more = f", and {quiet.unsaid} before" if quiet.unsaid else ""
        logger.warning("refused (%s, %s): %s%s", self._side, reason, who, more)
        quiet.until, quiet.unsaid = now + _EVERY_S, 0
