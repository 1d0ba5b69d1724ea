"""The bars of W2, and its section of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.serving.report import bars_table, busiest, host_said, said
from benchmarks.serving.summary import Round, bar, spread
from benchmarks.table import table

OURS, FLOOR, BOUND = "offramp", "floor", "bound"
LATENCY_BAR, FRAMEWORK_BAR = 1.15, 0.6


def framework_ms(row: Round, name: str) -> float | None:
    """CPU-ms an image that are not the stages' own compute; None where nothing was answered."""
    if "all_cpu_ms" not in row[name]:
        return None
    return float(row[name]["all_cpu_ms"]) - float(row[BOUND]["compute_cpu_ms"])


def _frameworks(rounds: Sequence[Round], name: str) -> list[float]:
    found = (framework_ms(row, name) for row in rounds if name in row)
    return [value for value in found if value is not None]


def _names(rounds: Sequence[Round]) -> list[str]:
    return [name for name in rounds[0] if name != BOUND]


def best_peer(rounds: Sequence[Round]) -> str | None:
    """The peer with the lowest median of framework CPU."""
    peers = [name for name in _names(rounds) if name not in (OURS, FLOOR)]
    costs = {name: _frameworks(rounds, name) for name in peers}
    medians = {name: median(values) for name, values in costs.items() if values}
    return min(medians, key=lambda name: medians[name]) if medians else None


def _over_bound(rounds: Sequence[Round], exit_index: int, name: str = OURS) -> float:
    ours = (row[name]["one"]["by_exit"][exit_index]["p50"] for row in rounds)
    least = (row[BOUND]["latency_ms"][exit_index] for row in rounds)
    return median(float(a) / float(b) for a, b in zip(ours, least, strict=True))


def bars(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """What the issue asks of W2, and what was found."""
    exits = range(len(rounds[0][BOUND]["latency_ms"]))
    found = [
        bar(
            f"exit {k}, p50 with one in flight, over compute and bare gRPC",
            _over_bound(rounds, k),
            LATENCY_BAR,
        )
        for k in exits
    ]
    peer = best_peer(rounds)
    share = None if peer is None else _share_of(rounds, OURS, peer)
    found.append(bar(f"framework CPU-ms, over the best peer's ({peer})", share, FRAMEWORK_BAR))
    wrong = sum(
        sum(row[name][part]["wrong"].values())
        for row in rounds
        for name in _names(rounds)
        for part in ("many", "one")
    )
    found.append(bar("requests that failed or were answered wrongly, all systems", wrong, 0.0))
    return found


def _share_of(rounds: Sequence[Round], name: str, other: str) -> float | None:
    """Framework CPU-ms of one over that of another in the same round, the median; None where one answered nothing."""
    mine, theirs = _frameworks(rounds, name), _frameworks(rounds, other)
    return median(a / b for a, b in zip(mine, theirs, strict=True)) if mine and theirs else None


def _floor_said(rounds: Sequence[Round]) -> str:
    """How far the hand-written floor is from the bars itself."""
    peer = best_peer(rounds)
    share = _share_of(rounds, FLOOR, peer) if peer and FLOOR in _names(rounds) else None
    if share is None:
        return ""
    exits = range(len(rounds[0][BOUND]["latency_ms"]))
    over = " / ".join(f"{_over_bound(rounds, k, FLOOR):.2f}" for k in exits)
    ours = _share_of(rounds, OURS, FLOOR)
    return (
        "By the same measures the floor, which does nothing but move bytes, has "
        f"{share:.2f} of the framework CPU-ms of the best peer, and {over} of the bound's latency "
        f"at the exits; offramp has {ours:.2f} of the floor's framework CPU-ms."
    )


def _row(title: str, rounds: Sequence[Round], name: str) -> tuple[str, ...]:
    found = [row[name] for row in rounds]
    exits = range(len(rounds[0][BOUND]["latency_ms"]))
    tiers = ("device", "fog", "cloud")
    memory = [median(one["pss_mb"][tier] for one in found) for tier in tiers]
    return (
        title,
        said(spread([one["many"].get("images_per_s", 0.0) for one in found]), 0),
        said(spread([one["all_cpu_ms"] for one in found if "all_cpu_ms" in one]), 3),
        said(spread(_frameworks(rounds, name)), 3),
        *(said(spread([one["one"]["by_exit"][k]["p50"] for one in found]), 2) for k in exits),
        " / ".join(f"{value:.0f}" for value in memory),
    )


def _intro(record: Mapping[str, Any], compute_ms: float) -> str:
    found = record["found"]
    rounds = found["rounds"]
    bytes_up = ", ".join(f"{size:,}" for size in rounds[0][BOUND]["hop_bytes"])
    return " ".join(
        (
            f"`{record['command']}`: three stages on three tiers, whose inputs leave at exits 0, 1 and 2 in 55, 25",
            f"and 20 % of all cases, the same ones in every system; {bytes_up} bytes go into the tiers.",
            f"{len(rounds)} interleaved rounds of {found['seconds']:g} s a load, medians and range;",
            f"**all three tiers on one core**, {host_said(found['machine'])}.",
            "CPU-ms an image with 8 in flight, of all tiers and of the hops (where the caller makes them, its requests",
            "but the first); framework CPU-ms is that less the stages' bare compute at batch 1,",
            f"{compute_ms:.3f} CPU-ms an image. Latencies are p50 by exit with one in flight; under them stands",
            "the sum of the stages' bare compute and of a bare gRPC call for every hop.",
            f"Other processes took {busiest(rounds):.2f} of a core in the busiest load of all.",
        )
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rounds = found["rounds"]
    bounds = [row[BOUND] for row in rounds]
    compute_ms = median(one["compute_cpu_ms"] for one in bounds)
    exits = range(len(bounds[0]["latency_ms"]))
    headings = (
        "",
        "images/s",
        "CPU-ms an image",
        "framework CPU-ms",
        *(f"exit {k}, ms" for k in exits),
        "PSS, MB (device / fog / cloud)",
    )
    rows = [_row(found["titles"][name], rounds, name) for name in _names(rounds)]
    least = [said(spread([one["latency_ms"][k] for one in bounds]), 2) for k in exits]
    rows.append(("bare compute and gRPC", "-", f"{compute_ms:.3f}", "0", *least, "-"))
    return "\n\n".join(
        part
        for part in (
            _intro(record, compute_ms),
            table(headings, rows),
            bars_table(found["bars"]),
            _floor_said(rounds),
        )
        if part
    )
