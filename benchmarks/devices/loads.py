"""What a fleet of devices asks for, and what came of it.

    Closed  so many requests in flight on every device; the next goes when one has its result
    Open    a seeded Poisson process for each device; a request is timed from when it was due

Figures per request are of a window in the middle of the load: what the tiers' processes spent in it, over the results
that came in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.rpc.v1 import tier_pb2 as pb

NOTHING = 0  # the code of a request without a result
_DEGRADED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """`in_flight` on each device, `deadline_s` each; the window begins after `warm_s`. In 0 seconds each asks once."""

    in_flight: int
    seconds: float
    deadline_s: float = 60.0
    warm_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Requests at `rates_hz[k]` in the mean from device k."""

    rates_hz: Sequence[float]
    seconds: float
    seed: int
    deadline_s: float
    warm_s: float = 0.0


Load = Closed | Open


class Window(NamedTuple):
    """What the part of a load came to that is measured; `tiers_cpu_s` by name, of the tiers' processes."""

    results: int
    wall_s: float
    tiers_cpu_s: dict[str, float]
    load_cpu_s: float
    messages_up: int
    messages_down: int


class Outcome(NamedTuple):
    """All requests of a load, in the order in which they were made.

    devices: (N,); due_s: (N,) from the start; took_s: (N,) from due to result, NaN where none came; codes: (N,), see
    `code_of`; late_s: the time from due to handing it to the stream that 99 % of the requests kept within; began: a
    time of time.monotonic(), which is one and the same in all processes.
    """

    devices: NDArray[np.int64]
    due_s: NDArray[np.float64]
    took_s: NDArray[np.float64]
    codes: NDArray[np.int64]
    late_s: float
    window: Window
    began: float

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(N,) whether an answer came, degraded or not."""
        found: NDArray[np.bool_] = self.codes > 0
        return found


def answer_code(tier: int, degraded: int = 0) -> int:
    """The code of an answer: positive."""
    return tier * _DEGRADED + degraded


def code_of(result: Any) -> int:
    """The code of a pb.Result: `answer_code` of its tier and reason, or less than 0 for a status, of its number."""
    if result.WhichOneof("outcome") == "answer":
        return answer_code(result.answer.tier, result.answer.degraded)
    return -int(result.status.code)


def arrivals(load: Open) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """When each request is due, from the start and in order, and from which device.

    A device's own times depend on the seed, its place and its rate alone, whatever the others do.
    """
    times, devices = [], []
    for device, rate_hz in enumerate(load.rates_hz):
        chance = np.random.default_rng((load.seed, device))
        gaps = chance.exponential(1 / rate_hz, size=round(2 * rate_hz * load.seconds) + 50)
        due = np.cumsum(gaps)
        times.append(due[due < load.seconds])
        devices.append(np.full(len(times[-1]), device))
    together, whose = np.concatenate(times), np.concatenate(devices)
    order = np.argsort(together, kind="stable")
    return together[order], whose[order]


def named(code: int) -> str:
    """A code in words: the tier that answered and why it is degraded, or the status."""
    if code == NOTHING:
        return "no result"
    if code < 0:
        return f"status {-code}"
    tier, degraded = divmod(code, _DEGRADED)
    name = pb.TierName.Name(tier).removeprefix("TIER_NAME_").lower()
    reason = pb.Degraded.Name(degraded).removeprefix("DEGRADED_").lower()
    return f"{name}, {reason}" if degraded else name
