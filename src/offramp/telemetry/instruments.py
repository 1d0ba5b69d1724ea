"""Counters and histograms that cost little to count with: plain numbers, which the client library reads at a scrape.

    Count.add(), Spread.observe() <- the event loop alone
    Instruments.collect() -> metric families of prometheus_client -> /metrics

The library's own take a lock for every increment, and some ten of them a sample were a tenth of what a sample costs.
One thread writes here; a scrape, in another, reads numbers that are whole, if perhaps one sample apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

T = TypeVar("T")


class Count:
    """What grows, of one set of label values."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """So much more."""
        self.value += amount


class Spread:
    """How often values fell between the bounds, of one set of label values. bounds: upper ones, ascending."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One value more; a bucket holds its upper bound."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many values up to it), the last bound +Inf."""
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum


@dataclass(slots=True)
class _Family(Generic[T]):
    text: str
    labels: tuple[str, ...]
    children: dict[tuple[str, ...], T] = field(default_factory=dict)


class Instruments(Collector):
    """Makes Counts and Spreads, and shows them to a registry under the names and labels they were made with."""

    def __init__(self) -> None:
        self._counts: dict[str, _Family[Count]] = {}
        self._spreads: dict[str, _Family[Spread]] = {}

    def count(self, name: str, text: str, labels: Mapping[str, str]) -> Count:
        """A new counter; all of one name have the same labels."""
        return _added(self._counts, name, text, labels, Count())

    def spread(
        self, name: str, text: str, labels: Mapping[str, str], bounds: Sequence[float]
    ) -> Spread:
        """A new histogram; all of one name have the same labels and bounds."""
        return _added(self._spreads, name, text, labels, Spread(bounds))

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        for name, counts in self._counts.items():
            counters = CounterMetricFamily(name, counts.text, labels=counts.labels)
            for values, count in counts.children.items():
                counters.add_metric(values, count.value)
            yield counters
        for name, spreads in self._spreads.items():
            histograms = HistogramMetricFamily(name, spreads.text, labels=spreads.labels)
            for values, spread in spreads.children.items():
                histograms.add_metric(values, spread.buckets(), spread.sum)
            yield histograms


def _added(
    families: dict[str, _Family[T]], name: str, text: str, labels: Mapping[str, str], made: T
) -> T:
    family = families.setdefault(name, _Family(text, tuple(labels)))
    family.children[tuple(labels.values())] = made
    return made
