"""Medians of the rounds, and the bars of W1.

Rounds come one after another and a machine drifts, so a bar compares within each round (ours over theirs) and judges
the median of these ratios; a table shows the medians and the range of the values themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Round = Mapping[
    str, Any
]  # by system, what a trial found; "bare": by batch, what onnxruntime alone needs
OURS, UNARY, FLOOR = "offramp", "offramp-unary", "floor"
READY_BAR_S, MEMORY_BAR_MB = 2.0, 100.0

_VALUES = {  # by name, where a trial keeps it
    "cpu_ms": ("closed", "cpu_ms"),
    "images_per_s": ("closed", "images_per_s"),
    "p50_ms": ("closed", "latency_ms", "p50"),
    "p99_ms": ("closed", "latency_ms", "p99"),
    "open_p99_ms": ("open", "latency_ms", "p99"),
    "batch_images_per_s": ("batch", "images_per_s"),
    "batch_cpu_ms": ("batch", "cpu_ms"),
    "start_s": ("start_s",),
    "pss_mb": ("pss_mb",),
    "pss_after_calls_mb": ("pss_after_calls_mb",),
    "processes": ("processes",),
}


def value(trial: Mapping[str, Any], name: str) -> float | None:
    """One figure of a trial; None where it has none."""
    found: Any = trial
    for key in _VALUES[name]:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return float(found)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and range; None of nothing."""
    if not values:
        return None
    return {"median": median(values), "low": min(values), "high": max(values)}


def _values(rounds: Sequence[Round], system: str, name: str) -> list[float]:
    found = (value(one[system], name) for one in rounds if system in one)
    return [figure for figure in found if figure is not None]


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """By system and figure, median and range over the rounds."""
    systems = [name for name in rounds[0] if name != "bare"]
    return {
        system: {name: spread(_values(rounds, system, name)) for name in _VALUES}
        | {"wrong": sum(_wrong(one[system]) for one in rounds if system in one)}
        for system in systems
    }


def _wrong(trial: Mapping[str, Any]) -> int:
    parts = (trial.get(part, {}) for part in ("closed", "open", "batch"))
    return sum(sum(part.get("wrong", {}).values()) for part in parts)


def ratio(rounds: Sequence[Round], name: str, over: str, ours: str = OURS) -> float | None:
    """The median over rounds of our figure divided by the other's; None where there is none of one."""
    found = []
    for one in rounds:
        if ours in one and over in one:
            mine, theirs = value(one[ours], name), value(one[over], name)
            if mine is not None and theirs:
                found.append(mine / theirs)
    return median(found) if found else None


def best(summary: Mapping[str, Any], name: str, among: Sequence[str]) -> str | None:
    """The system with the lowest median; None where none has one."""
    medians = {s: summary[s][name]["median"] for s in among if s in summary and summary[s][name]}
    return min(medians, key=lambda system: medians[system]) if medians else None


def batch_share(rounds: Sequence[Round], ours: str = OURS) -> float | None:
    """Images a second in calls of 32, over what onnxruntime alone does in the same round."""
    found = []
    for one in rounds:
        rate = value(one[ours], "batch_images_per_s") if ours in one else None
        if rate is not None:
            found.append(rate * one["bare"]["32"]["wall_ms"] / 1e3)
    return median(found) if found else None


def bar(what: str, found: float | None, most: float, *, least: bool = False) -> dict[str, Any]:
    """One bar as JSON; `found` None is neither held nor broken."""
    holds = None if found is None else (found >= most if least else found <= most)
    words = f"{'at least' if least else 'at most'} {most:g}"
    return {"what": what, "found": found, "bar": words, "holds": holds}


def bars(rounds: Sequence[Round], peers: Sequence[str]) -> list[dict[str, Any]]:
    """What the issue asks of W1, and what was found; `holds` is None where it could not be judged."""
    summary = summarise(rounds)
    by_cpu, by_tail = best(summary, "cpu_ms", peers), best(summary, "open_p99_ms", peers)
    ours = summary.get(OURS, {})

    def of_peer(name: str, peer: str | None) -> float | None:
        return ratio(rounds, name, peer) if peer else None

    def own(name: str) -> float | None:
        found = ours.get(name)
        return found["median"] if found else None

    wrong = float(sum(one["wrong"] for one in summary.values()))
    return [
        bar("CPU-ms a request, over the floor's", ratio(rounds, "cpu_ms", FLOOR), 0.90),
        bar(f"CPU-ms a request, over the best peer's ({by_cpu})", of_peer("cpu_ms", by_cpu), 1.0),
        bar("p50 with 8 in flight, over the floor's", ratio(rounds, "p50_ms", FLOOR), 1.0),
        bar("p99 with 8 in flight, over the floor's", ratio(rounds, "p99_ms", FLOOR), 1.0),
        bar(
            f"p99 in the open loop, over the best peer's ({by_tail})",
            of_peer("open_p99_ms", by_tail),
            0.8,
        ),
        bar(
            "calls of 32 images, over onnxruntime's own rate", batch_share(rounds), 0.90, least=True
        ),
        bar("memory (PSS) of single images, MB", own("pss_mb"), MEMORY_BAR_MB),
        bar("memory (PSS) after calls of 32, MB", own("pss_after_calls_mb"), MEMORY_BAR_MB),
        bar("start to first answer, s", own("start_s"), READY_BAR_S),
        bar("requests that failed or were answered wrongly, all systems", wrong, 0.0),
    ]
