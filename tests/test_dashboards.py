"""The dashboard and the rules ask for metrics that exist, and every alert has a test of its own.

What promtool and a live Prometheus say of them, tests/test_compose.py asks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dashboard import GRAFANA, dashboard, panels

from offramp.links.metrics import LinkMetrics
from offramp.telemetry import TierMetrics
from offramp.telemetry.store import StoreMetrics

yaml = pytest.importorskip("yaml")

PROMETHEUS = Path(__file__).parents[1] / "deploy" / "prometheus"
BUCKETS = ("_bucket", "_sum", "_count")
QUESTIONS = [
    "Is it answering?",
    "Where are answers given?",
    "How long, and why?",
    "What crosses each link?",
    "Is it degraded?",
]


def rules() -> Iterator[dict[str, Any]]:
    for file in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def exported() -> set[str]:
    """The names of every series that a tier or a link exports."""
    tier = TierMetrics("fog", stages=(0,)).registry
    store = StoreMetrics("fog", tier)
    store.show(held=lambda _: 0.0, size_bytes=lambda: 0.0, oldest_s=lambda: 0.0)
    registries = [tier, LinkMetrics().registry]
    names = set()
    for family in itertools.chain.from_iterable(r.collect() for r in registries):
        if family.type == "histogram":
            names |= {family.name + suffix for suffix in BUCKETS}
        else:
            names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return names


def names_in(query: str) -> set[str]:
    """Metrics and recorded series of a PromQL expression: what holds a colon, or begins as ours do."""
    without_strings = re.sub(r'"[^"]*"', "", query)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", without_strings)
    return {word for word in words if ":" in word or word.startswith(("offramp_", "process_"))}


# --- the dashboard ------------------------------------------------------------------------------


def test_the_rows_are_the_questions_from_the_top_down() -> None:
    rows = [panel for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows] == QUESTIONS
    heights = [row["gridPos"]["y"] for row in rows]
    assert heights == sorted(heights)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    found = dashboard()["panels"]
    identifiers = [panel["id"] for panel in found]
    assert len(set(identifiers)) == len(identifiers)
    cells = [
        (x, y)
        for panel in found
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_panel_says_what_it_shows_and_asks_the_provisioned_prometheus() -> None:
    file = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": source["uid"]}


def test_a_dashboard_is_looked_for_where_compose_mounts_it() -> None:
    file = GRAFANA / "provisioning" / "dashboards" / "offramp.yml"
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    compose = yaml.safe_load((GRAFANA.parents[1] / "docker-compose.yml").read_text())
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("panel", panels(), ids=str)
def test_a_panel_asks_for_what_is_exported_or_recorded(panel: Any) -> None:
    for query in panel.queries:
        assert names_in(query) <= exported() | recorded()


def test_rules_ask_for_what_is_exported_or_recorded() -> None:
    for rule in rules():
        assert names_in(rule["expr"]) <= exported() | recorded(), rule


def test_every_recorded_series_is_asked_for() -> None:
    asked = set().union(
        *(names_in(query) for panel in panels() for query in panel.queries),
        *(names_in(rule["expr"]) for rule in rules()),
    )
    assert recorded() <= asked


# --- alerts -------------------------------------------------------------------------------------


def test_every_alert_says_how_bad_it_is_and_what_is_wrong() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_has_a_test_in_which_it_fires_and_a_time_at_which_it_does_not_yet() -> None:
    seen: dict[str, set[bool]] = {}
    for test in yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            seen.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert seen == {alert: {True, False} for alert in alerts}
