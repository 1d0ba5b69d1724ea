"""Instruments say to a scrape what the client library's own would say, without its locks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from offramp.telemetry.instruments import Instruments

BOUNDS = (0.001, 0.1, 1.0, 2.5)
VALUES = (0.0, 0.001, 0.0011, 0.5, 1.0, 2.5, 2.6, 1e9)


def samples(registry: CollectorRegistry) -> list[str]:
    """The lines of a scrape without comments and times of birth."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if not line.startswith("#") and "_created" not in line)


def test_a_scrape_reads_the_same_as_the_library_s_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    instruments = Instruments()
    ours.register(instruments)
    counter = Counter("things", "Things.", ("tier", "kind"), registry=theirs)
    histogram = Histogram("spans", "Spans.", ("tier",), buckets=BOUNDS, registry=theirs)
    for kind in ("a", "b"):
        count = instruments.count("things", "Things.", {"tier": "fog", "kind": kind})
        child = counter.labels("fog", kind)
        for amount in (1.0, 2.5):
            count.add(amount)
            child.inc(amount)
    spread, known = (
        instruments.spread("spans", "Spans.", {"tier": "fog"}, BOUNDS),
        histogram.labels("fog"),
    )
    for value in VALUES:
        spread.observe(value)
        known.observe(value)
    assert samples(ours) == samples(theirs)
    assert 'spans_bucket{le="+Inf",tier="fog"} 8.0' in samples(ours)
