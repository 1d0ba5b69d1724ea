"""Greedier exits while there is too much to do: a step further on the bundle's path, and back again.

    pressure of the samples of the last hold_s > above --> a step up, to greedier thresholds
                                               < below --> a step down, to the policy's own

The pressure is 1 where a sample would be refused: here, for want of time or room, or by what the next tier takes. A
sample that leaves only by a step's thresholds is degraded, reason `brownout`; one that stays goes on by its own policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from offramp.bundle import Manifest
from offramp.serving.settings import BrownoutSettings

logger = logging.getLogger(__name__)


class Brownout:
    """The step of one tier. most: how many there are; told: hears every new one."""

    def __init__(
        self, settings: BrownoutSettings, most: int, told: Callable[[int], None] = lambda _: None
    ) -> None:
        self._settings, self._most, self._told = settings, most, told
        self.step = 0
        self._since: float | None = None  # of the samples that are looked at
        self._latest = 0.0
        self._sum, self._count = 0.0, 0

    def see(self, pressure: float, now: float) -> None:
        """One more sample came, at a time of time.monotonic()."""
        if self._since is None or now - self._latest > self._settings.hold_s:
            self._begin(now)  # it was quiet
            self._go_to(0)
        self._latest = now
        self._sum += min(pressure, 1.0)
        self._count += 1
        if self._since is None or now - self._since < self._settings.hold_s:
            return
        mean = self._sum / self._count
        self._begin(now)
        if mean > self._settings.above:
            self._go_to(min(self.step + 1, self._most))
        elif mean < self._settings.below:
            self._go_to(max(self.step - 1, 0))

    def _begin(self, now: float) -> None:
        self._since, self._sum, self._count = now, 0.0, 0

    def _go_to(self, step: int) -> None:
        if step != self.step:
            self.step = step
            logger.warning("brown-out: step %d of %d", step, self._most)
            self._told(step)

    def threshold(self, manifest: Manifest, policy_id: str, stage: int) -> float | None:
        """From which confidence samples leave at this exit now, beside those that do by the policy; None: nobody."""
        steps = manifest.brownout(policy_id)
        step = min(self.step, len(steps))  # another policy may have fewer
        if step == 0 or stage >= len(steps[step - 1].thresholds):
            return None
        return steps[step - 1].thresholds[stage]
