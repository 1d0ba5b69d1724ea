"""A deployment and its baselines over emulated links: each arm meets the same network at the same images.

seconds     0      k / rate                                image k is sent then, whatever became of those before
links       |row   row   row   row ...                     both from their first row again, for every arm
three_tier  |.     .  answer                  latency from there to the answer, at most about the deadline
plain_split |.     .       answer

Open loop: all images that fall into an outage meet it. In a closed loop it would be those few that are in flight, and
the others would wait outside of the measured time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.client import AsyncClient, Timed
from offramp.client.inputs import Image
from offramp.errors import DeadlineExceeded, InvalidInput, OfframpError, TierUnavailable
from offramp.evaluation.comparison import Arm, ArmResult, Watch, by_deployment, encoded
from offramp.evaluation.deployment import Deployment, LinksBetween
from offramp.evaluation.figures import figures_of
from offramp.links.engines.choosing import Name
from offramp.links.excerpt import calm, excerpt, passing_share
from offramp.links.timeline import Timeline

PER_SECOND = 50.0  # under a tenth of what the slowest arm does over loopback on two cores
DEADLINE_S = 1.0  # above every round trip of the profiles but those of outages
# Twice the deadline: an outage that is cut off at a piece's end was too long already for all but its last images. Six
# pieces come near to the quantiles of ten minutes, four of 3 s or twelve seconds in one go do not.
PIECE_S = 2.0
TIMELINE_S = 600.0
_WARM_UP, _WARM_UP_IN_FLIGHT, _WARM_UP_DEADLINE_S = 40, 8, 30.0
_FACTS = ("profile", "kind", "seed", "engine", "congestion", "mtu", "limit_mbit", "clipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Links by the tier below them (none: loopback), all of one engine, and how images come.

    machines: by tier, the profile of the machine that it stands for; those left out are this machine.
    """

    links: Mapping[str, Timeline] = field(default_factory=dict)
    engine: Name = "stream"
    machines: Mapping[str, str] = field(default_factory=dict)
    per_second: float = PER_SECOND
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        for name in ("per_second", "deadline_s"):
            if not 0 < getattr(self, name) < inf:
                raise InvalidInput(name, f"{getattr(self, name)} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """Results by arm, and of each link, by the tier below it, what it was."""

    rehearsal: Rehearsal
    images: int
    results: dict[str, ArmResult]
    links: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The circumstances, without the results."""
        return {
            "images": self.images,
            "per_second": self.rehearsal.per_second,
            "deadline_s": self.rehearsal.deadline_s,
            "piece_s": PIECE_S,
            "machines": dict(self.rehearsal.machines),
            "links": self.links,
        }


def link_timelines(device_fog: str, fog_cloud: str, *, seed: int) -> dict[str, Timeline]:
    """Ten minutes of both profiles, by the tier below the link; the upper one's seed is one more.

    Raises InvalidInput for an unknown profile (with near names) or a seed below 0; ModuleNotFoundError without PyYAML.
    """
    from offramp.links.compiling import compile_profile
    from offramp.links.profile import load_profile

    profiles = {"device": load_profile(device_fog), "fog": load_profile(fog_cloud)}
    return {
        tier: compile_profile(profile, seed=seed + k, duration_s=TIMELINE_S)
        for k, (tier, profile) in enumerate(profiles.items())
    }


def rehearse(
    bundle: Bundle,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    arms: Sequence[Arm],
    rehearsal: Rehearsal,
    *,
    watch: Watch = lambda _arm, _timed: None,
) -> Rehearsed:
    """Every arm's result. Starts and stops tiers and links; `watch` sees each outcome as it arrives.

    images: (N, H, W, C) uint8, or raw (N, ...); labels: (N,). Raises InvalidInput where N images at that rate last
    longer than a timeline.
    """
    seconds = len(images) / rehearsal.per_second
    rows = {
        tier: excerpt(timeline, seconds=seconds, piece_s=PIECE_S)
        for tier, timeline in rehearsal.links.items()
    }
    before = LinksBetween({tier: calm(row) for tier, row in rows.items()}, rehearsal.engine)
    results: dict[str, ArmResult] = {}
    facts: dict[str, dict[str, Any]] = {}

    async def run_all() -> None:  # in one event loop: gRPC's poller complains of one that is gone
        for last_stages, group in by_deployment(arms):
            machines = {t: m for t, m in rehearsal.machines.items() if t in dict(last_stages)}
            deployment = Deployment(
                bundle.folder, dict(last_stages), between=before, machines=machines
            )
            with deployment:
                run = _Run(deployment, rehearsal, before.timelines, rows)
                for arm in group:
                    outcomes = await run.measure(arm, encoded(images, arm.form), watch)
                    results[arm.name] = _result(outcomes, labels)
                for tier, link in deployment.links.items():
                    facts[tier] = _facts(link.status, rows[tier])

    asyncio.run(run_all())
    return Rehearsed(
        rehearsal=rehearsal,
        images=len(images),
        results={arm.name: results[arm.name] for arm in arms},
        links={tier: facts[tier] for tier in rehearsal.links if tier in facts},
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One arm on tiers that run."""

    deployment: Deployment
    rehearsal: Rehearsal
    calm: Mapping[str, Timeline]
    rows: Mapping[str, Timeline]

    async def measure(self, arm: Arm, inputs: Sequence[Image], watch: Watch) -> list[Timed]:
        async with AsyncClient(
            self.deployment.device, name="rehearsal", policy=arm.policy
        ) as client:
            self._put(self.calm)  # which also lets out what an outage has kept of the arm before
            async for _ in client.infer_many(
                inputs[:_WARM_UP], in_flight=_WARM_UP_IN_FLIGHT, deadline_s=_WARM_UP_DEADLINE_S
            ):
                pass
            self._put(self.rows)
            return await self._paced(client, arm, inputs, watch)

    def _put(self, timelines: Mapping[str, Timeline]) -> None:
        for tier, link in self.deployment.links.items():
            link.put(timelines[tier])

    async def _paced(
        self, client: AsyncClient, arm: Arm, inputs: Sequence[Image], watch: Watch
    ) -> list[Timed]:
        start = time.monotonic()

        async def one(index: int, image: Image) -> Timed:
            due = start + index / self.rehearsal.per_second
            await asyncio.sleep(due - time.monotonic())
            began = time.monotonic()
            outcome: Any
            try:
                outcome = await client.infer(image, deadline_s=self.rehearsal.deadline_s)
            except OfframpError as exc:
                outcome = exc
            timed = Timed(index, outcome, time.monotonic() - began)
            watch(arm.name, timed)
            return timed

        return list(await asyncio.gather(*(one(k, image) for k, image in enumerate(inputs))))


def _result(outcomes: Sequence[Timed], labels: NDArray[np.int64]) -> ArmResult:
    """An arm's figures; where no image was answered, raises what the first one met."""
    gone = (DeadlineExceeded, TierUnavailable)
    answered = [timed for timed in outcomes if not isinstance(timed.outcome, gone)]
    run = figures_of(answered or outcomes, labels)
    return ArmResult(run=run, unanswered=len(outcomes) - len(answered))


def _facts(status: Mapping[str, Any], rows: Timeline) -> dict[str, Any]:
    """What the link says of itself, and what its rows hold."""
    p50, p95 = np.percentile(rows.up.delay_ms + rows.down.delay_ms, (50, 95))
    return {name: status[name] for name in _FACTS} | {
        "round_trip_p50_ms": round(float(p50), 2),
        "round_trip_p95_ms": round(float(p95), 2),
        "passing_share": round(passing_share(rows), 4),
    }
