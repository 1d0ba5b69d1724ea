"""Refusals, counted each and logged seldom: whoever is refused may come back a thousand times a second."""

from __future__ import annotations

import logging
from collections import defaultdict

from offramp.rpc.tls import Refusal
from offramp.serving.seldom import Seldom
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Side

logger = logging.getLogger(__name__)


class Refusals:
    """Those of one tier: downstream of its callers by it, upstream of it and the next tier by each other."""

    def __init__(self, metrics: TierMetrics, side: Side) -> None:
        self._metrics, self._side = metrics, side
        self._lines: defaultdict[Refusal, Seldom] = defaultdict(Seldom)

    def add(self, reason: Refusal, who: str) -> None:
        """One more; one line in 10 s at most says who it was, and how many there were that no line names."""
        self._metrics.count_refusal(self._side, reason)
        if count := self._lines[reason].add():
            more = f", and {count - 1} before" if count > 1 else ""
            logger.warning("refused (%s, %s): %s%s", self._side, reason, who, more)
