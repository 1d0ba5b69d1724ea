"""What a run of the fuzzer found, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.fuzz.target import TARGETS
from benchmarks.table import table, verdict

LEAST_INPUTS = 1_000_000
MOST_GROWTH = 1.5


def bars(rows: Sequence[dict[str, Any]], least_inputs: int) -> list[dict[str, Any]]:
    """What must hold, over all targets."""
    inputs = sum(one["inputs"] for one in rows)
    growth = max(one["memory_mb"][1] / one["memory_mb"][0] for one in rows)
    return [
        {
            "what": "inputs",
            "found": inputs,
            "bar": f"at least {least_inputs:,}",
            "holds": inputs >= least_inputs,
        },
        _most("crashes and hangs", sum(bool(one["broke"]) for one in rows), 0),
        _most("memory at the end, of that after 1,000 inputs", growth, MOST_GROWTH),
    ]


def _most(what: str, found: float, most: float) -> dict[str, Any]:
    return {"what": what, "found": found, "bar": f"at most {most:g}", "holds": found <= most}


def markdown(record: dict[str, Any]) -> str:
    """The section of the results page."""
    found = record["found"]
    intro = (
        f"`{record['command']}`: Atheris (libFuzzer for Python) on what comes from outside, each target in a process "
        f"of its own, {found['seconds']:g} s in all. Reached: edges of offramp's code and of parsers that are Python "
        "themselves. Corpus: inputs of this run that reach something which shorter ones do not."
    )
    headings = (
        *("target", "inputs", "a second", "reached", "features", "corpus"),
        *("slowest, ms", "MB after 1,000", "MB at the end", "broke"),
    )
    rows = [
        (
            TARGETS[one["target"]][0],
            f"{one['inputs']:,}",
            f"{one['inputs'] / one['seconds']:,.0f}",
            one["reached"],
            one["features"],
            one["corpus"],
            f"{one['slowest_ms']:.1f}",
            f"{one['memory_mb'][0]:.0f}",
            f"{one['memory_mb'][1]:.0f}",
            one["broke"] or "nothing",
        )
        for one in found["rows"]
    ]
    checks = [
        (
            one["what"],
            f"{one['found']:,}" if isinstance(one["found"], int) else f"{one['found']:.2f}",
            one["bar"],
            verdict(one["holds"]),
        )
        for one in found["bars"]
    ]
    return "\n\n".join((intro, table(headings, rows), table(("what", "found", "bar", ""), checks)))
