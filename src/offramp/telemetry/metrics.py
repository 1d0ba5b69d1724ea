"""The metrics of a tier: base units, the namespace in front, label values that exist before the first event.

docs/metrics.md says which question each one answers.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
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
    """Counters and histograms of one tier, on a registry of its own."""

    def __init__(self, tier: str, stages: Sequence[int], exits: Sequence[int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self._tier = tier
        self._requests = Counter(
            "offramp_requests", "Samples by outcome.", ("tier", "outcome"), registry=registry
        )
        self._exits = Counter(
            "offramp_exits",
            "Answers that this tier gave, by exit.",
            ("tier", "exit"),
            registry=registry,
        )
        self._degraded = Counter(
            "offramp_degraded",
            "Answers of an exit that would have handed on, by reason.",
            ("tier", "reason"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "offramp_request_seconds",
            "From a sample's arrival to its result.",
            ("tier",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "offramp_queue_seconds",
            "A sample's wait for a stage.",
            ("tier", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "offramp_stage_seconds",
            "A batch's computation in a stage.",
            ("tier", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "offramp_batch_size",
            "Samples in a batch.",
            ("tier", "stage"),
            buckets=_BATCHES,
            registry=registry,
        )
        self._hop_seconds = Histogram(
            "offramp_hop_seconds",
            "From handing a sample on to its result, whichever it is.",
            ("tier",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._wire_bytes = Counter(
            "offramp_wire_bytes",
            "Whole gRPC messages of samples and results, the 5 bytes before each included.",
            ("tier", "side", "direction"),
            registry=registry,
        )
        self._in_flight = Gauge(
            "offramp_in_flight",
            "Samples accepted and not yet answered.",
            ("tier",),
            registry=registry,
        )
        self._build = Gauge(
            "offramp_build_info", "What runs.", ("tier", "version", "python"), registry=registry
        )
        self._bundle = Gauge(
            "offramp_bundle_info",
            "The bundle in use.",
            ("tier", "name", "network", "policy"),
            registry=registry,
        )
        self.in_flight = self._in_flight.labels(tier)
        self.request_seconds = self._request_seconds.labels(tier)
        self.hop_seconds = self._hop_seconds.labels(tier)
        for outcome in get_args(Outcome):
            self._requests.labels(tier, outcome)
        for reason in get_args(DegradedReason):
            self._degraded.labels(tier, reason)
        for side in get_args(Side):
            for direction in get_args(Direction):
                self._wire_bytes.labels(tier, side, direction)
        for exit_index in exits:
            self._exits.labels(tier, str(exit_index))
        for stage in stages:
            self._queue_seconds.labels(tier, str(stage))
            self._stage_seconds.labels(tier, str(stage))
            self._batch_size.labels(tier, str(stage))

    def identify(self, *, version: str, bundle: str, network: str, policy: str) -> None:
        """State what runs and the bundle it serves."""
        self._build.labels(self._tier, version, platform.python_version()).set(1)
        self._bundle.labels(self._tier, bundle, network, policy).set(1)

    def count_result(self, outcome: Outcome) -> None:
        """One more sample has its result."""
        self._requests.labels(self._tier, outcome).inc()

    def count_exit(self, exit_index: int, reason: DegradedReason | None) -> None:
        """One more answer was given here, by this exit; with a reason it is degraded."""
        self._exits.labels(self._tier, str(exit_index)).inc()
        if reason is not None:
            self._degraded.labels(self._tier, reason).inc()

    def observe_batch(self, stage: int, size: int, seconds: float) -> None:
        """One more batch went through a stage."""
        self._batch_size.labels(self._tier, str(stage)).observe(size)
        self._stage_seconds.labels(self._tier, str(stage)).observe(seconds)

    def observe_queue(self, stage: int, seconds: float) -> None:
        """One more sample waited for a stage."""
        self._queue_seconds.labels(self._tier, str(stage)).observe(seconds)

    def count_bytes(self, side: Side, direction: Direction, count: int) -> None:
        """One more message, of that many bytes, to or from the tier or caller on that side."""
        self._wire_bytes.labels(self._tier, side, direction).inc(count)
