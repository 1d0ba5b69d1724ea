"""The metrics of a tier: base units, the namespace in front, label values that exist before the first event.

docs/metrics.md says which question each one answers.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from offramp.errors import DegradedReason
from offramp.rpc.tls import Refusal
from offramp.telemetry.instruments import Count, Instruments, Spread

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
Swap = Literal["done", "refused"]
BreakerState = Literal["closed", "open", "half_open"]
LimitName = Literal["streams", "streams_per_peer", "streams_hz", "idle", "stalled"]
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
        self._instruments = Instruments()
        self.registry.register(self._instruments)
        self._tier = tier
        self._requests = {
            name: self._count("requests", "Samples by outcome.", outcome=name)
            for name in get_args(Outcome)
        }
        self._exits: dict[int, Count] = {}
        degraded = "Answers of an exit that would have handed on, by reason."
        self._degraded = {
            why: self._count("degraded", degraded, reason=why) for why in get_args(DegradedReason)
        }
        early = "Answers so far that callers were given before a sample was handed on."
        self.early_answers = self._count("early_answers", early)
        wire_bytes = "Whole gRPC messages of samples and results, the 5 bytes before each included."
        self._wire_bytes = {
            (side, direction): self._count("wire_bytes", wire_bytes, side=side, direction=direction)
            for side, direction in itertools.product(get_args(Side), get_args(Direction))
        }
        limits = "Calls that a limit refused or ended, by limit."
        self._limits = {
            name: self._count("limits", limits, limit=name) for name in get_args(LimitName)
        }
        self.request_seconds = self._seconds("request", "From a sample's arrival to its result.")
        self.hop_seconds = self._seconds(
            "hop", "From handing a sample on to its result, whichever it is."
        )
        self._queue_seconds: dict[int, Spread] = {}
        self._stage_seconds: dict[int, Spread] = {}
        self._batch_size: dict[int, Spread] = {}
        self.add_stages(stages)
        swaps = "Bundles that were to come into use while the tier runs, by what became of them."
        self.bundle_swaps = {
            swap: self._count("bundle_swaps", swaps, swap=swap) for swap in get_args(Swap)
        }
        self.in_flight = self._gauge("in_flight", "Samples accepted and not yet answered.").labels(
            tier
        )
        self.upstreams = self._gauge(
            "upstreams", "Replicas of the next tier that are connected."
        ).labels(tier)
        self.brownout_step = self._gauge(
            "brownout_step", "How far this tier goes for greedier exits; 0: its policy's own."
        ).labels(tier)
        turns = "Changes of a breaker before a replica of the next tier, by new state."
        self._breaker_turns = {
            state: self._count("breaker_transitions", turns, state=state)
            for state in get_args(BreakerState)
        }
        self._breaker = self._gauge(
            "breaker_state", "1 for the state that the breaker is in.", "upstream", "state"
        )
        refusals = "Calls and connections refused for who the caller is, by reason."
        self._refusals = {
            (side, why): self._count("refusals", refusals, side=side, reason=why)
            for side, why in itertools.product(get_args(Side), get_args(Refusal))
        }
        self._certificate_end = self._gauge(
            "certificate_end_time_seconds", "When the tier's own certificate ends, since 1970."
        )
        self._build = self._gauge("build_info", "What runs.", "version", "python")
        self._bundle = self._gauge("bundle_info", "The bundle in use.", "name", "network", "policy")
        self._profile = self._gauge(
            "tier_profile_info", "The machine that it stands for.", "profile", "reference"
        )
        self._slowdown = self._gauge("slowdown_ratio", "Stage time over the time computed.")
        self._watts = self._gauge("power_watts", "What its tier profile says it draws.", "state")

    def add_stages(self, stages: Sequence[int]) -> None:
        """Stages that are open here by now; those known go on counting."""
        for k in stages:
            if k in self._exits:
                continue
            exits = "Answers that this tier gave, by exit."
            self._exits[k] = self._count("exits", exits, exit=str(k))
            queue = "A sample's wait for a stage."
            self._queue_seconds[k] = self._seconds("queue", queue, stage=str(k))
            computing = "A batch's computation in a stage."
            self._stage_seconds[k] = self._seconds("stage", computing, stage=str(k))
            labels = {"tier": self._tier, "stage": str(k)}
            size = "Samples in a batch."
            self._batch_size[k] = self._instruments.spread(
                "offramp_batch_size", size, labels, _BATCHES
            )

    def _count(self, name: str, text: str, **labels: str) -> Count:
        return self._instruments.count(f"offramp_{name}", text, {"tier": self._tier, **labels})

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"offramp_{name}", text, ("tier", *labels), registry=self.registry)

    def _seconds(self, name: str, text: str, **labels: str) -> Spread:
        name, named = f"offramp_{name}_seconds", {"tier": self._tier, **labels}
        return self._instruments.spread(name, text, named, _SECONDS)

    def identify(self, *, version: str, bundle: str, network: str, policy: str) -> None:
        """State what runs and the bundle it serves, in place of the one until now."""
        self._build.labels(self._tier, version, platform.python_version()).set(1)
        self._bundle.clear()
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
        self._requests[outcome].add()

    def count_exit(self, exit_index: int, reason: DegradedReason | None) -> None:
        """One more answer was given here, by this exit; with a reason it is degraded."""
        self._exits[exit_index].add()
        if reason is not None:
            self._degraded[reason].add()

    def count_limit(self, limit: LimitName) -> None:
        """One more call was refused, or a stream ended, by this limit."""
        self._limits[limit].add()

    def observe_batch(self, stage: int, size: int, seconds: float) -> None:
        """One more batch went through a stage."""
        self._batch_size[stage].observe(size)
        self._stage_seconds[stage].observe(seconds)

    def observe_queue(self, stage: int, seconds: float) -> None:
        """One more sample waited for a stage."""
        self._queue_seconds[stage].observe(seconds)

    def show_breaker(self, upstream: str, state: BreakerState, *, is_new: bool = False) -> None:
        """The breaker before that replica is in this state; a new one has not changed into it."""
        for one in get_args(BreakerState):
            self._breaker.labels(self._tier, upstream, one).set(float(one == state))
        if not is_new:
            self._breaker_turns[state].add()

    def forget_breaker(self, upstream: str) -> None:
        """That replica has gone."""
        for one in get_args(BreakerState):
            self._breaker.remove(self._tier, upstream, one)

    def count_refusal(self, side: Side, reason: Refusal) -> None:
        """One more: of a caller by this tier, or of this tier and the next one by each other."""
        self._refusals[side, reason].add()

    def show_certificate(self, ends: float) -> None:
        """The tier's own certificate ends then, in seconds since 1970."""
        self._certificate_end.labels(self._tier).set(ends)

    def count_bytes(self, side: Side, direction: Direction, count: int) -> None:
        """One more message, of that many bytes, to or from the tier or caller on that side."""
        self._wire_bytes[side, direction].add(count)
