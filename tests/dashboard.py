"""The panels of the Grafana dashboard and what they ask Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "offramp.json"
# What Grafana puts in for its variables: four scrapes at least, and the range shown.
_INTERVALS = {"$__rate_interval": "1m", "$__range": "15m"}


class Panel(NamedTuple):
    """A panel that asks something: its title and its queries as Prometheus gets them."""

    title: str
    queries: tuple[str, ...]

    def __str__(self) -> str:
        return self.title


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def panels() -> list[Panel]:
    """Every panel of the dashboard but the rows."""
    return [
        Panel(panel["title"], tuple(_filled_in(target["expr"]) for target in panel["targets"]))
        for panel in dashboard()["panels"]
        if panel["type"] != "row"
    ]


def is_of_a_link(panel: Panel) -> bool:
    """Whether it has data only where links are emulated."""
    return any("offramp_link_" in query for query in panel.queries)


def _filled_in(query: str) -> str:
    for variable, value in _INTERVALS.items():
        query = query.replace(variable, value)
    return query
