"""How costs grow: ratios within a round, their medians over rounds, the bars and the section of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.serving.report import said
from benchmarks.serving.summary import bar, spread
from benchmarks.table import table, verdict

CPU_BAR, MEMORY_BAR_KB = 1.10, 50.0

Round = Mapping[str, Any]


def growth(rounds: Sequence[Round], kind: str, size: int, over: int) -> float:
    """CPU-ms a request at one size over that at another of the same round, the median."""
    found = [one[kind][str(size)]["cpu_ms"] / one[kind][str(over)]["cpu_ms"] for one in rounds]
    return float(median(found))


def idle_kb(rounds: Sequence[Round], devices: int, over: int = 0) -> float:
    """Memory of one idle device in kB (1,000 bytes), from what so many of them add, the median."""
    sizes = str(devices), str(over)
    memories = [[one["idle_pss_mb"][size] for size in sizes] for one in rounds]
    return float(median((more - less) * 1e3 / (devices - over) for more, less in memories))


def bars(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """What the issue asks of growth, and what was found."""
    return [
        bar(
            "CPU-ms a request, 256 devices over 1, same total rate",
            growth(rounds, "devices", 256, 1),
            CPU_BAR,
        ),
        bar(
            "CPU-ms a request, 10,000 in flight over 10",
            growth(rounds, "in_flight", 10_000, 10),
            CPU_BAR,
        ),
        bar(
            "memory of an idle device, kB, the larger of 256 and 1,024",
            max(idle_kb(rounds, 256), idle_kb(rounds, 1_024)),
            MEMORY_BAR_KB,
        ),
    ]


def _row(rounds: Sequence[Round], kind: str, title: str, size: str) -> tuple[str, ...]:
    ones = [one[kind][size] for one in rounds]
    first = next(iter(sorted(rounds[0][kind], key=int)))
    up, down = (median(one[f"in_a_message_{way}"] for one in ones) for way in ("up", "down"))
    return (
        f"{title}, {int(size):,}",
        said(spread([one["cpu_ms"] for one in ones]), 3),
        f"{growth(rounds, kind, int(size), int(first)):.2f}",
        f"{median(one['a_second'] for one in ones):,.0f}",
        f"{up:.1f} / {down:.1f}",
        f"{median(one['core_share'] for one in ones):.0%}",
    )


def _closed_remark(found: Mapping[str, Any]) -> str:
    """Why the closed loop over several devices decides nothing."""
    rounds = found["rounds"]
    one, many = (rounds[0]["devices_closed"][size] for size in ("1", "256"))
    ratio = growth(rounds, "devices_closed", 256, 1)
    return (
        f"In the closed loop with {found['all_in_flight']} in flight in all, a request of 256 devices costs "
        f"{ratio:.2f} of one of a single device: that one has {one['in_a_message_down']:.0f} results in a message, "
        f"where 256 devices have {many['in_a_message_down']:.1f}. What grows there is the number of messages, not the "
        "cost of a device."
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    host, rounds = found["machine"], found["rounds"]
    intro = (
        f"`{record['command']}`: one tier on core {host['server_core']} of a {host['processor']}, the load generator "
        f"on core {host['load_core']}, a network of one 16 x 4 matrix, metrics and health on. {len(rounds)} rounds of "
        f"{found['seconds']:g} s a load, medians and range. Devices: each its own connection and origin, "
        f"{found['total_hz']:,.0f} requests a second in all (Poisson); then a closed loop with "
        f"{found['all_in_flight']} in flight in all. In flight: one device, closed loop. CPU time is of the tier's "
        f"processes ({rounds[0]['meter']})."
    )
    headings = (
        "",
        "CPU-ms a request",
        "over the first",
        "requests/s",
        "in a message, up / down",
        "CPU of the core",
    )
    titles = {
        "devices": "devices, same rate",
        "devices_closed": "devices, closed loop",
        "in_flight": "in flight",
    }
    rows = [
        _row(rounds, kind, title, size)
        for kind, title in titles.items()
        for size in sorted(rounds[0][kind], key=int)
    ]
    memory = [
        (f"{int(size):,}", said(spread([one["idle_pss_mb"][size] for one in rounds]), 1))
        for size in rounds[0]["idle_pss_mb"]
    ]
    checks = [
        (one["what"], f"{one['found']:.3g}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    parts = (
        intro,
        table(headings, rows),
        _closed_remark(found),
        table(("idle devices", "PSS, MB"), memory),
        table(("what", "found", "bar", ""), checks),
    )
    return "\n\n".join(parts)
