"""How long a batch or a hop will take, as the last ones went."""

from __future__ import annotations

from collections import deque

_LEARNT_FROM_ONE = 0.2
_MARGIN = 2.0  # mean deviations; RFC 6298 has 4, of single packets
_HOPS = 64
_HOP_AGE_S = (
    10.0  # older ones say nothing of a mobile link; and who sends nothing tries again after it
)
_FEWEST_HOPS = 8


class StageTime:
    """Of one stage: what a sample took of late, and how far off that was.

    The same estimate as TCP's of a round trip (Jacobson 1988, RFC 6298): a moving mean, and a moving mean of how far
    the last ones were from what was foreseen. sample_s: seconds a sample; nothing is known before learn().
    """

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


class HopTime:
    """Of one upstream: a quantile of the hops of the last seconds, in seconds; 0 where there were too few.

    quantile: 0.5 foresees a time within which half of them were back.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._hops: deque[tuple[float, float]] = deque(maxlen=_HOPS)
        self._foreseen_s: float | None = 0.0  # None: to be sought anew
        self._learnt = 0

    def learn(self, now: float, seconds: float) -> None:
        """A hop that ended now took so long, or had not ended by then."""
        self._hops.append((now, seconds))
        self._learnt += 1
        if self._learnt % _FEWEST_HOPS == 0:
            self._foreseen_s = None

    def foreseen_s(self, now: float) -> float:
        """How long the next one will take."""
        while self._hops and self._hops[0][0] < now - _HOP_AGE_S:
            self._hops.popleft()
            self._foreseen_s = None
        if self._foreseen_s is None:
            self._foreseen_s = 0.0
            if len(self._hops) >= _FEWEST_HOPS:
                ordered = sorted(seconds for _, seconds in self._hops)
                self._foreseen_s = ordered[int(self._quantile * (len(ordered) - 1))]
        return self._foreseen_s
