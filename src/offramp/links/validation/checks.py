"""What was measured against what the rows in force say, each with its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offramp.links.quantiles import Floats
from offramp.links.timeline import Loss

_OUTAGE_BOUND_S = 0.010
_CALL_BOUND_S, _CALL_SHARE = 0.040, 0.10
_GOODPUT_SHARES = 0.95, 1.01
_SIGMAS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One quantity; it passes from `low` to `high`, both included."""

    quantity: str
    unit: str
    expected: float
    measured: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether it is within its bounds."""
        return self.low <= self.measured <= self.high

    def as_json(self) -> dict[str, Any]:
        """The figures, and whether it passed."""
        return {**asdict(self), "passed": self.passed}


def around(quantity: str, unit: str, expected: float, measured: float, bound: float) -> Check:
    """A check of what may be off by `bound` to either side."""
    return Check(quantity, unit, expected, measured, expected - bound, expected + bound)


def round_trip(rows_s: Floats, measured_s: Floats, bare_s: Floats) -> list[Check]:
    """Median and 95th percentile in ms. rows_s: (N,) what the rows in force say of each probe; measured_s: (N,);

    bare_s: (M,) without the link, whose quantiles are subtracted.
    """
    checks = []
    for percent, least_ms, share in ((50, 0.3, 0.03), (95, 1.0, 0.10)):
        expected, measured, bare = (
            1e3 * float(np.percentile(values, percent)) for values in (rows_s, measured_s, bare_s)
        )
        bound = max(least_ms, share * expected)
        checks.append(around(f"round trip p{percent}", "ms", expected, measured - bare, bound))
    return checks


def goodput(way: str, rate_mbit: float, payload_share: float, measured_mbit: float) -> Check:
    """Payload that arrived, against the rate's share of it."""
    expected = rate_mbit * payload_share
    low, high = (share * expected for share in _GOODPUT_SHARES)
    return Check(f"goodput {way} at {rate_mbit:g}", "Mbit/s", expected, measured_mbit, low, high)


def outage(kind: str, length_s: float, measured_s: float) -> Check:
    """An outage's length in ms; nan where none was seen, which does not pass."""
    name = f"{kind} of {1e3 * length_s:g} ms"
    return around(name, "ms", 1e3 * length_s, 1e3 * measured_s, 1e3 * _OUTAGE_BOUND_S)


def held_call(length_s: float, left_s: float, added_s: float) -> Check:
    """What a held outage adds to a call in flight, in ms, against what was left of it when the call began."""
    bound = max(_CALL_BOUND_S, _CALL_SHARE * left_s)
    name = f"call over a hold of {1e3 * length_s:g} ms"
    return around(name, "ms", 1e3 * left_s, 1e3 * added_s, 1e3 * bound)


def loss(way: str, expected: Loss, sent: int, lost: int) -> Check:
    """The share lost, within three standard deviations of it.

    Losses of Gilbert and Elliott come in bursts, so the binomial deviation is widened by the states' memory:
    n var = p (1 - p) + 2 sum_k cov_k, with cov_k = pi (1 - pi) (in_bad - in_good)^2 (1 - enter - leave)^k.
    Without bursts it is the binomial one.
    """
    mean, memory = expected.mean, 1 - expected.enter - expected.leave
    bad = expected.enter / (expected.enter + expected.leave)
    covariance = bad * (1 - bad) * (expected.in_bad - expected.in_good) ** 2
    variance = mean * (1 - mean) + (2 * covariance * memory / (1 - memory) if memory < 1 else 0)
    bound = _SIGMAS * (max(variance, 0.0) / sent) ** 0.5
    return around(f"loss {way}", "share", mean, lost / sent, bound)


def longest_gaps(times_s: Sequence[float], count: int) -> list[float]:
    """The `count` longest gaps between neighbouring times, in the order in which they came."""
    gaps = np.diff(np.asarray(times_s, float))
    if len(gaps) < count:
        return [float("nan")] * count
    return [float(gap) for gap in gaps[np.sort(np.argsort(gaps)[-count:])]]
