"""The record of `benchmarks.certificate` as a section of docs/results.md."""

from __future__ import annotations

from typing import Any

from benchmarks.table import table, verdict
from offramp.exits.certificate import percent

_HEADINGS = (
    "risk",
    "epsilon",
    "n",
    "violating draws",
    "on the rest",
    "nothing certified",
    "mean risk",
    "FLOPs saved",
    "best in hindsight",
    "ratio",
    "bars",
)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["interval"]
    return (
        row["risk"],
        percent(row["epsilon"]),
        f"{row['n']:,}",
        f"{row['violating']:.1%} [{low:.1%}, {high:.1%}]",
        f"{row['violating_elsewhere']:.1%}",
        f"{row['nothing_certified']:.1%}",
        f"{row['mean_risk']:.2%}",
        f"{row['saved']:.1%}",
        f"{row['saved_in_hindsight']:.1%}",
        "-" if row["ratio"] is None else f"{row['ratio']:.0%}",
        verdict(row["holds"]),
    )


def _intro(found: dict[str, Any]) -> str:
    pool, fitted = found["pool"], found["fitted_on"]
    return (
        f"Network `{found['network'][:12]}` ({found['bundle']}, {found['exits']} exits). "
        f"Temperatures and candidate thresholds were fixed on {fitted['samples']:,} images "
        f"({fitted['name']}). Each of {found['splits']} draws took n of the {pool['samples']:,} of "
        f"{pool['name']} without replacement and certified a policy with confidence "
        f"{percent(1 - found['delta'])}. A draw violates where the risk of its policy on the whole "
        "pool is above epsilon."
    )


def _remarks(found: dict[str, Any]) -> str:
    bar = found["bar"]
    worst = max(found["rows"], key=lambda row: row["violating"])
    return (
        f"The bars: the lower end of the 95 % interval of violating draws is at most "
        f"{percent(found['delta'])}; at {percent(bar['epsilon'])} and n = {bar['n']:,} the ratio is at "
        f"least {bar['ratio']:.0%}. Most often, {worst['violating']:.1%} of the draws, it was "
        f"{worst['risk']} at {percent(worst['epsilon'])} and n = {worst['n']:,} that was violated. "
        "The rest of the pool, which was not drawn, has a sampling error of its own: its share has no "
        "bar. Saved are FLOPs of the network without its early exits' heads, on the whole pool. In "
        "hindsight, thresholds are chosen on the pool itself: the better of a path fitted there and "
        f"the best of {found['rows'][0]['grid']:,} joint thresholds."
    )


def markdown(result: dict[str, Any]) -> str:
    """The section: what was done, the table, what it says, the command."""
    found = result["found"]
    rows = table(_HEADINGS, map(_cells, found["rows"]))
    return "\n\n".join((_intro(found), rows, _remarks(found), f"`{result['command']}`"))
