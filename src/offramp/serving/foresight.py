"""How long a batch will take: what a sample took of late, and how far off that was.

The same estimate as TCP's of a round trip (Jacobson 1988, RFC 6298): a moving mean, and a moving mean of how far the
last ones were from what was foreseen.
"""

from __future__ import annotations

_LEARNT_FROM_ONE = 0.2
_MARGIN = 2.0  # mean deviations; RFC 6298 has 4, of single packets


class StageTime:
    """Of one stage, in batches as they were of late. sample_s: seconds a sample; nothing is known before learn()."""

    def __init__(self, sample_s: float = 0.0) -> None:
        self.sample_s = sample_s
        self._off_s = 0.0

    def learn(self, samples: int, seconds: float) -> None:
        """A batch of so many took so long."""
        if not self.sample_s:
            self.sample_s = seconds / samples
            return
        off_s = abs(seconds - samples * self.sample_s)
        self._off_s += _LEARNT_FROM_ONE * (off_s - self._off_s)
        self.sample_s += _LEARNT_FROM_ONE * (seconds / samples - self.sample_s)

    @property
    def margin_s(self) -> float:
        """What to allow for a batch that takes longer than foreseen."""
        return _MARGIN * self._off_s
