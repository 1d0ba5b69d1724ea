"""docs/metrics.md describes the metrics that a tier has, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, get_args

from offramp.errors import DegradedReason
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Direction, Outcome, Side

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


def described() -> dict[str, Described]:
    return {
        name.strip("`"): Described(kind, names_in(labels))
        for name, kind, _unit, labels, _question in rows("name")
    }


def existing() -> dict[str, Described]:
    metrics = TierMetrics("fog", stages=(0, 1))
    metrics.identify(version="1", bundle="b", network="n", policy="p")
    found = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        found[name] = Described(family.type, frozenset(labels - {"tier", "le"}))
    return found


def test_every_metric_is_described_with_its_type_and_labels() -> None:
    assert described() == existing()


def test_every_metric_states_unit_and_question() -> None:
    for name, _kind, unit, _labels, question in rows("name"):
        assert unit, name
        assert question.endswith("?"), name


def test_units_are_those_of_the_names() -> None:
    for name, _kind, unit, *_ in rows("name"):
        assert ("_seconds" in name) == (unit == "seconds"), name
        assert ("_bytes" in name) == (unit == "bytes"), name


def test_every_value_of_a_closed_label_is_described() -> None:
    values = {names: names_in(cell) for names, cell in rows("label")}
    assert values["`outcome`"] == set(get_args(Outcome))
    assert values["`reason`"] == set(get_args(DegradedReason))
    assert values["`side`"] == set(get_args(Side))
    assert values["`direction`"] == set(get_args(Direction))
