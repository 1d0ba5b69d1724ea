"""The numbers that are always shown together: share, accuracy, latency and bytes, by tier and overall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.client import Timed
from offramp.errors import OfframpError
from offramp.rpc import Answer, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of the images that a tier (or all of them) answered.

    share: of all images; accuracy: a share; latency end to end at the client, in milliseconds; bytes_up and
    bytes_down: exchanged with the tier above (overall: over all links), averaged over all images of the run, those
    that never left the device included; bytes_up_per_sent: of an image that was sent, its mean share of the message
    up (one image a message when one is in flight). None where no image was.
    """

    share: float
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    bytes_up: float
    bytes_down: float
    bytes_up_per_sent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """One run over a set of images: by tier, overall, and how many answers were degraded."""

    tiers: dict[str, Figures]
    overall: Figures
    degraded: int


def percentiles_ms(latency_s: NDArray[np.float64]) -> tuple[float, float, float] | tuple[None, ...]:
    """The 50th, 95th and 99th percentile, in milliseconds; three times None for no latencies."""
    if len(latency_s) == 0:
        return None, None, None
    p50, p95, p99 = np.percentile(latency_s, (50, 95, 99)) * 1e3
    return float(p50), float(p95), float(p99)


def figures_of(outcomes: Sequence[Timed], labels: NDArray[np.int64]) -> RunFigures:
    """The figures of a run. Raises the first error among its outcomes: a figure that hides one would lie."""
    answers: list[Answer] = []
    for timed in outcomes:
        if isinstance(timed.outcome, OfframpError):
            raise timed.outcome
        answers.append(timed.outcome)
    latency_s = np.array([timed.latency_s for timed in outcomes])
    right = np.array([a.label == labels[t.index] for a, t in zip(answers, outcomes, strict=True)])
    tier_of = np.array([answer.tier for answer in answers])
    up = {tier: np.zeros(len(answers)) for tier in Tier}
    down = {tier: np.zeros(len(answers)) for tier in Tier}
    for k, answer in enumerate(answers):
        for leg in answer.trail:
            up[leg.tier][k] += leg.bytes_up
            down[leg.tier][k] += leg.bytes_down

    def figures(rows: NDArray[np.bool_], links: Sequence[Tier]) -> Figures:
        p50, p95, p99 = percentiles_ms(latency_s[rows])
        ups = np.sum([up[tier] for tier in links], axis=0)
        # A message is what crosses one link: over several links, each crossing counts.
        messages = sum(int(np.count_nonzero(up[tier])) for tier in links)
        return Figures(
            share=float(rows.mean()),
            accuracy=float(right[rows].mean()) if rows.any() else None,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            bytes_up=float(ups.mean()),
            bytes_down=float(np.sum([down[tier] for tier in links], axis=0).mean()),
            bytes_up_per_sent=float(ups.sum() / messages) if messages else None,
        )

    return RunFigures(
        tiers={str(tier): figures(tier_of == tier, (tier,)) for tier in Tier},
        overall=figures(np.ones(len(answers), np.bool_), tuple(Tier)),
        degraded=sum(answer.degraded is not None for answer in answers),
    )
