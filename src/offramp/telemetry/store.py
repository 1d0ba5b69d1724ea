"""The metrics of a store, of a tier that has one (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Gauge

from offramp.telemetry.instruments import Instruments

Put = Literal["stored", "full", "late", "broken"]
Resend = Literal["answered", "in_vain", "failed"]
Drop = Literal["released", "expired"]
Held = Literal["waiting", "answered", "failed"]


class StoreMetrics:
    """On the registry of that tier."""

    def __init__(self, tier: str, registry: CollectorRegistry) -> None:
        self._registry, self._tier = registry, tier
        instruments = Instruments()
        puts = "Samples that were answered degraded and were to be kept, by what became of that."
        self.puts = {
            put: instruments.count("offramp_store_puts", puts, {"tier": tier, "put": put})
            for put in get_args(Put)
        }
        resends = "Kept samples that were asked again, by outcome."
        self.resends = {
            resend: instruments.count(
                "offramp_store_resends", resends, {"tier": tier, "resend": resend}
            )
            for resend in get_args(Resend)
        }
        drops = "Results that are no longer kept, by reason."
        self.drops = {
            why: instruments.count("offramp_store_drops", drops, {"tier": tier, "drop": why})
            for why in get_args(Drop)
        }
        failures = "Reads and writes of the store that failed."
        self.failures = instruments.count("offramp_store_failures", failures, {"tier": tier})
        registry.register(instruments)

    def show(
        self,
        held: Callable[[Held], float],
        size_bytes: Callable[[], float],
        oldest_s: Callable[[], float],
    ) -> None:
        """Read at every scrape: how many are held in which state, bytes of all, the age of the oldest that waits."""
        samples = self._gauge("samples", "Samples in the store.", "held")
        for state in get_args(Held):
            samples.labels(self._tier, state).set_function(partial(held, state))
        self._gauge("bytes", "Of all that is kept.").labels(self._tier).set_function(size_bytes)
        oldest = self._gauge("oldest_seconds", "Since the oldest sample that waits was stored.")
        oldest.labels(self._tier).set_function(oldest_s)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"offramp_store_{name}", text, ("tier", *labels), registry=self._registry)
