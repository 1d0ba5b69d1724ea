"""Whether a timeline is what its profile says: each of its three processes beside the profile's table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from offramp.links.profile import Process, Profile
from offramp.links.quantiles import Floats, Quantiles
from offramp.links.timeline import Timeline


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """One process of a timeline. `correlation` is of neighbouring rows, None for a constant."""

    name: str
    values: Floats
    table: Quantiles
    distance: float  # Kolmogorov, to the table
    correlation: float | None
    wanted_correlation: float | None


def marginals(profile: Profile, timeline: Timeline) -> list[Marginal]:
    """Round trip, rate up and rate down of a timeline beside its profile's."""
    up, down = timeline.up, timeline.down
    return [
        _marginal("round_trip_ms", up.delay_ms + down.delay_ms, profile.round_trip_ms, timeline),
        _marginal("rate_up_mbit", up.rate_mbit, profile.up.rate_mbit, timeline),
        _marginal("rate_down_mbit", down.rate_mbit, profile.down.rate_mbit, timeline),
    ]


def _marginal(name: str, values: Floats, process: Process, timeline: Timeline) -> Marginal:
    table = process.table
    distance = table.distance(
        np.round(values, 4)
    )  # a sum of two ways may miss an atom by its last bit
    if process.correlation_s is None:
        return Marginal(name, values, table, distance, None, None)
    wanted = math.exp(-timeline.step_s / process.correlation_s.value)
    return Marginal(name, values, table, distance, lag_correlation(values), wanted)


def lag_correlation(values: Floats) -> float | None:
    """Of neighbours; None where fewer than three values differ enough to have one."""
    if len(values) < 3 or values[1:].std() == 0 or values[:-1].std() == 0:
        return None
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])
