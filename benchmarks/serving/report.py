"""The section of docs/results.md on W1: tables and remarks, from the record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.serving.summary import UNARY, batch_share, ratio
from benchmarks.table import table, verdict

_HEADINGS = (
    "",
    "requests/s",
    "CPU-ms a request",
    "p50, ms",
    "p99, ms",
    "p99 open loop, ms",
    "images/s in calls of 32",
    "start, s",
    "PSS, MB (processes)",
    "PSS after calls of 32, MB",
)


def said(figures: Mapping[str, float] | None, digits: int) -> str:
    """Median and range of a figure."""
    if figures is None:
        return "-"
    low, high = figures["low"], figures["high"]
    return f"{figures['median']:.{digits}f} [{low:.{digits}f} - {high:.{digits}f}]"


def _row(title: str, system: Mapping[str, Any]) -> tuple[str, ...]:
    columns = (("images_per_s", 0), ("cpu_ms", 3), ("p50_ms", 1), ("p99_ms", 1), ("open_p99_ms", 1))
    processes = system["processes"]
    memory = "-" if processes is None else f"{system['pss_mb']['median']:.0f}"
    return (
        title,
        *(said(system[name], digits) for name, digits in columns),
        said(system["batch_images_per_s"], 0),
        said(system["start_s"], 2),
        f"{memory} ({processes['median']:.0f})" if processes else memory,
        said(system["pss_after_calls_mb"], 0),
    )


def _bare(found: Mapping[str, Any]) -> str:
    parts = []
    for batch in found["rounds"][0]["bare"]:
        costs = [one["bare"][batch]["cpu_ms"] for one in found["rounds"]]
        parts.append(f"{median(costs):.3f} CPU-ms an image at batch {batch}")
    return f"onnxruntime alone, in one process on the same core: {', '.join(parts)}."


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def busiest(rounds: Sequence[Mapping[str, Any]]) -> float:
    """The most that other processes took during any load, in cores: by it one knows how quiet the machine was."""
    loads = (load for row in rounds for trial in row.values() for load in trial.values())
    return max(
        (load.get("others", 0.0) for load in loads if isinstance(load, Mapping)), default=0.0
    )


def _unary(found: Mapping[str, Any]) -> str:
    """How the unary call fares by the same measures, which are no bars for it."""
    rounds = found["rounds"]
    cpu, share = ratio(rounds, "cpu_ms", "floor", UNARY), batch_share(rounds, UNARY)
    if cpu is None:
        return ""
    return (
        f"The unary call costs {number(cpu)} of the floor's CPU-ms, and moves {number(share)} of onnxruntime's own "
        "rate in calls of 32."
    )


def host_said(host: Mapping[str, Any]) -> str:
    """Which cores were whose, and on what machine."""
    cores = f"core {host['server_core']}, the load generator on core {host['load_core']}"
    shared = " (**one and the same**)" if host["cores"] == 1 else ""
    return f"{cores}{shared} of a {host['processor']}, load average before {host['load_before']:g}"


def _intro(record: Mapping[str, Any]) -> str:
    found = record["found"]
    rounds = found["rounds"]
    meters = sorted({one["meter"] for row in rounds for name, one in row.items() if name != "bare"})
    return " ".join(
        (
            f"`{record['command']}`: one tier, the same ONNX file in each (341,786 parameters, random weights),",
            "one float32 image (3, 32, 32) a message, 8 in flight.",
            f"{len(rounds)} interleaved rounds of {found['seconds']:g} s a load, medians and range;",
            f"each server on {host_said(found['machine'])}.",
            f"CPU time is of the server's processes ({'; '.join(meters)}).",
            "Open loop: Poisson arrivals at 80 % of what the floor did in the same round,",
            "a dash where a system would need more than its core for that.",
            "Calls of 32 images: two in flight, of the systems that take them.",
            "offramp serves its metrics and health throughout.",
            f"Other processes took {busiest(rounds):.2f} of a core in the busiest load of all.",
        )
    )


def bars_table(bars: Sequence[Mapping[str, Any]]) -> str:
    """What was asked, what was found, and whether it holds."""
    rows = [(one["what"], number(one["found"]), one["bar"], verdict(one["holds"])) for one in bars]
    said_before = "Bars, each the median of the ratios within the rounds:"
    return f"{said_before}\n\n{table(('what', 'found', 'bar', ''), rows)}"


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rows = [_row(found["titles"][name], one) for name, one in found["summary"].items()]
    parts = (_intro(record), table(_HEADINGS, rows), _bare(found), _unary(found))
    return "\n\n".join(part for part in (*parts, bars_table(found["bars"])) if part)
