"""docs/metrics.md describes the metrics that a tier has, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from prometheus_client import CollectorRegistry

from offramp.errors import DegradedReason
from offramp.links.engines.link import Abilities, Drop, Link
from offramp.links.metrics import LinkMetrics
from offramp.links.timeline import Direction, Kind, Timeline
from offramp.rpc.tls import Refusal
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Direction as Towards
from offramp.telemetry.metrics import Outcome, Side
from offramp.telemetry.store import Drop as StoreDrop
from offramp.telemetry.store import Held, Put, Resend, StoreMetrics

DOCUMENT = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()


class Described(NamedTuple):
    type: str
    labels: frozenset[str]


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header row begins so."""
    lines = iter(DOCUMENT.splitlines())
    next(line for line in lines if line.startswith(f"| {header} |"))
    next(lines)  # the rule below the header
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def names_in(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`([^`]+)`", cell))


def described(header: str) -> dict[str, Described]:
    return {
        name.strip("`"): Described(kind, names_in(labels))
        for name, kind, _unit, labels, _question in rows(header)
    }


def of_a_tier() -> CollectorRegistry:
    metrics = TierMetrics("fog", stages=(0, 1))
    metrics.identify(version="1", bundle="b", network="n", policy="p")
    metrics.show_breaker("cloud:7103", "closed", is_new=True)
    metrics.show_certificate(1.0)
    metrics.stand_for("raspberry", reference="r", slowdown=2.0, watts={"idle": 1.0})
    store = StoreMetrics("fog", metrics.registry)
    store.show(held=lambda _: 0.0, size_bytes=lambda: 0.0, oldest_s=lambda: 0.0)
    return metrics.registry


def of_a_link() -> CollectorRegistry:
    one = np.ones(1)
    way = Direction(one, one, np.zeros(1, np.uint8), queue_bytes=1)
    timeline = Timeline(name="t", kind="trace", seed=0, step_s=1.0, up=way, down=way)
    metrics = LinkMetrics()
    metrics.watch(Link(timeline, 0.0, Abilities(1000.0, lossless=True)), "stream", "cubic")
    return metrics.registry


def existing(registry: CollectorRegistry) -> dict[str, Described]:
    found = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        found[name] = Described(family.type, frozenset(labels - {"tier", "le"}))
    return found


def test_every_metric_is_described_with_its_type_and_labels() -> None:
    tier = existing(of_a_tier())
    of_a_process = {name: found for name, found in tier.items() if name.startswith("process_")}
    assert described("name") == tier
    assert described("metric") | of_a_process == existing(of_a_link())


def test_every_metric_states_unit_and_question() -> None:
    for name, _kind, unit, _labels, question in [*rows("name"), *rows("metric")]:
        assert unit, name
        assert question.endswith("?"), name


def test_units_are_those_of_the_names() -> None:
    for name, _kind, unit, *_ in [*rows("name"), *rows("metric")]:
        assert ("_seconds" in name) == (unit == "seconds"), name
        assert ("_bytes" in name) == (unit == "bytes"), name


def test_every_value_of_a_closed_label_is_described() -> None:
    values = {names: names_in(cell) for names, cell in rows("label")}
    assert values["`outcome`"] == set(get_args(Outcome))
    assert values["`reason`"] == set(get_args(DegradedReason))
    assert values["`side`"] == set(get_args(Side))
    assert values["`direction`"] == set(get_args(Towards))
    assert values["`reason` of a refusal"] == set(get_args(Refusal))
    assert values["`reason` of a drop"] == set(get_args(Drop))
    assert values["`put`"] == set(get_args(Put)) | {"store.most_bytes"}
    assert values["`resend`"] == set(get_args(Resend))
    assert values["`drop`"] == set(get_args(StoreDrop)) | {"store.keep_s"}
    assert values["`held`"] == set(get_args(Held))
    assert values["`kind`"] == set(get_args(Kind))
