"""The metrics of a tier: base units, the namespace in front, label values that exist before the first event.

docs/metrics.md says which question each one answers.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from offramp.errors import DegradedReason

Outcome = Literal[
    "answered",
    "degraded",
    "invalid",
    "mismatch",
    "expired",
    "overloaded",
    "unavailable",
    "cancelled",
    "failed",
]
Side = Literal["downstream", "upstream"]
Direction = Literal["up", "down"]

# From a fifth of a millisecond (a small stage) to ten seconds (a link that is as good as dead).
_SECONDS = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class TierMetrics:
    """Counters and histograms of one tier, on a registry of its own. stages: those open here."""

    def __init__(self, tier: str, stages: Sequence[int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._tier = tier
        # One child a label value, looked up here once: `labels()` costs more than what it counts.
        requests = self._counter("requests", "Samples by outcome.", "outcome")
        self._requests = {name: requests.labels(tier, name) for name in get_args(Outcome)}
        exits = self._counter("exits", "Answers that this tier gave, by exit.", "exit")
        self._exits = {stage: exits.labels(tier, str(stage)) for stage in stages}
        degraded = self._counter(
            "degraded", "Answers of an exit that would have handed on, by reason.", "reason"
        )
        self._degraded = {why: degraded.labels(tier, why) for why in get_args(DegradedReason)}
        wire_bytes = self._counter(
            "wire_bytes",
            "Whole gRPC messages of samples and results, the 5 bytes before each included.",
            *("side", "direction"),
        )
        self._wire_bytes = {
            (side, direction): wire_bytes.labels(tier, side, direction)
            for side, direction in itertools.product(get_args(Side), get_args(Direction))
        }
        self.request_seconds = self._seconds(
            "request", "From a sample's arrival to its result."
        ).labels(tier)
        self.hop_seconds = self._seconds(
            "hop", "From handing a sample on to its result, whichever it is."
        ).labels(tier)
        queue = self._seconds("queue", "A sample's wait for a stage.", "stage")
        self._queue_seconds = {stage: queue.labels(tier, str(stage)) for stage in stages}
        computing = self._seconds("stage", "A batch's computation in a stage.", "stage")
        self._stage_seconds = {stage: computing.labels(tier, str(stage)) for stage in stages}
        sizes = Histogram(
            "offramp_batch_size",
            "Samples in a batch.",
            ("tier", "stage"),
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._batch_size = {stage: sizes.labels(tier, str(stage)) for stage in stages}
        self.in_flight = self._gauge("in_flight", "Samples accepted and not yet answered.").labels(
            tier
        )
        self.upstreams = self._gauge(
            "upstreams", "Replicas of the next tier that are connected."
        ).labels(tier)
        self._build = self._gauge("build_info", "What runs.", "version", "python")
        self._bundle = self._gauge("bundle_info", "The bundle in use.", "name", "network", "policy")
        self._profile = self._gauge(
            "tier_profile_info", "The machine that it stands for.", "profile", "reference"
        )
        self._slowdown = self._gauge("slowdown_ratio", "Stage time over the time computed.")
        self._watts = self._gauge("power_watts", "What its tier profile says it draws.", "state")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"offramp_{name}", text, ("tier", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"offramp_{name}", text, ("tier", *labels), registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"offramp_{name}_seconds",
            text,
            ("tier", *labels),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def identify(self, *, version: str, bundle: str, network: str, policy: str) -> None:
        """State what runs and the bundle it serves."""
        self._build.labels(self._tier, version, platform.python_version()).set(1)
        self._bundle.labels(self._tier, bundle, network, policy).set(1)

    def stand_for(
        self, profile: str, *, reference: str, slowdown: float, watts: Mapping[str, float]
    ) -> None:
        """State the machine that this tier stands for, with its watts by state; "none" is the one that it runs on."""
        self._profile.labels(self._tier, profile, reference).set(1)
        self._slowdown.labels(self._tier).set(slowdown)
        for state, value in watts.items():
            self._watts.labels(self._tier, state).set(value)

    def count_result(self, outcome: Outcome) -> None:
        """One more sample has its result."""
        self._requests[outcome].inc()

    def count_exit(self, exit_index: int, reason: DegradedReason | None) -> None:
        """One more answer was given here, by this exit; with a reason it is degraded."""
        self._exits[exit_index].inc()
        if reason is not None:
            self._degraded[reason].inc()

    def observe_batch(self, stage: int, size: int, seconds: float) -> None:
        """One more batch went through a stage."""
        self._batch_size[stage].observe(size)
        self._stage_seconds[stage].observe(seconds)

    def observe_queue(self, stage: int, seconds: float) -> None:
        """One more sample waited for a stage."""
        self._queue_seconds[stage].observe(seconds)

    def count_bytes(self, side: Side, direction: Direction, count: int) -> None:
        """One more message, of that many bytes, to or from the tier or caller on that side."""
        self._wire_bytes[side, direction].inc(count)
