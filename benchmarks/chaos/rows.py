"""One fault in figures: who was answered, how, how soon, and when all was as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.chaos.faults import Fault
from benchmarks.chaos.load import Asked
from benchmarks.table import table, verdict

MOST_ADDED_MS = 20.0
MOST_TO_NORMAL_S = 3.0
_LATE_S = 0.1  # beyond its deadline, for the answer's way back to the client


class Times(NamedTuple):
    """Of one fault, by time.monotonic(): the quiet before it, its begin and end, the end of watching; the breaker's."""

    quiet: float
    began: float
    ended: float
    watched: float
    opened: float | None


def row(fault: Fault, asked: Sequence[Asked], times: Times, deadline_s: float) -> dict[str, Any]:
    """The figures of one fault."""
    hits_device = fault.hits_device
    before = [one for one in asked if times.quiet <= one.due < times.began]
    during = [one for one in asked if times.began <= one.due < times.watched]
    opened = times.opened if times.opened is not None else times.began + deadline_s
    after_opening = [one for one in during if opened <= one.due < times.ended and not one.error]
    answered = [one for one in during if not one.error]
    degraded = [one for one in answered if one.reason]
    return {
        "name": fault.name,
        "hits_device": hits_device,
        "is_gone": fault.is_gone,
        "accepted": len(answered) if hits_device else len(during),
        "refused": len(during) - len(answered) if hits_device else 0,
        "answered": len(answered),
        "errors": dict(Counter(one.error for one in during if one.error)),
        "degraded": dict(Counter(one.reason for one in degraded)),
        "wrong_reason": sum(one.reason not in fault.reasons for one in degraded),
        "degraded_before": sum(bool(one.reason or one.error) for one in before),
        "breaker_opened_s": None if times.opened is None else times.opened - times.began,
        "p99_before_ms": _p99_ms(before),
        "p99_after_opening_ms": _p99_ms(after_opening),
        "longest_s": max((one.took_s for one in answered), default=0.0),
        "to_normal_s": _to_normal_s(degraded, times.ended),
        "seconds": times.ended - times.began,
    }


def _p99_ms(asked: Sequence[Asked]) -> float | None:
    return float(np.percentile([one.took_s for one in asked], 99)) * 1e3 if asked else None


def _to_normal_s(degraded: Sequence[Asked], ended: float) -> float:
    """From the end of the fault to the last request that was degraded; 0 where none was after it."""
    return max((one.due - ended for one in degraded if one.due > ended), default=0.0)


def bars(rows: Sequence[dict[str, Any]], deadline_s: float) -> list[dict[str, Any]]:
    """What is asked of every fault; the times only of those by which a tier is gone."""
    ours = [one for one in rows if one["is_gone"]]
    if not ours:
        return []
    unanswered = sum(one["accepted"] - one["answered"] for one in rows)
    added = max(_added_ms(one) for one in ours)
    longest = max(one["longest_s"] for one in ours)
    normal = max(one["to_normal_s"] for one in ours)
    return [
        _bar("accepted requests without an answer", unanswered, 0),
        _bar("degraded for another reason", sum(one["wrong_reason"] for one in rows), 0),
        _bar("added p99 once the breaker has opened, ms, worst fault", added, MOST_ADDED_MS),
        _bar("longest wait for an answer, s", longest, deadline_s + _LATE_S),
        _bar("back to normal after the tier's return, s, worst fault", normal, MOST_TO_NORMAL_S),
    ]


def _added_ms(one: dict[str, Any]) -> float:
    after, before = one["p99_after_opening_ms"], one["p99_before_ms"]
    return 0.0 if after is None or before is None else after - before


def _bar(what: str, found: float, most: float) -> dict[str, Any]:
    return {"what": what, "found": found, "bar": f"at most {most:g}", "holds": found <= most}


def markdown(record: dict[str, Any]) -> str:
    """The section of the results page."""
    found = record["found"]
    intro = (
        f"`{record['command']}`: the compose deployment under {found['rate_hz']:g} requests a second with "
        f"{found['deadline_s']:g} s of deadline each; {found['quiet_s']:g} s as it is, the fault for "
        f"{found['fault_s']:g} s, and until nothing is degraded any more. Degraded answers are those of the fault and "
        "of the way back. Seconds to normal count from the moment at which the engine says that the container is "
        "back: a tier that was started needs part of them to load its bundle."
    )
    if left_out := found.get("left_out"):
        intro += f" Left out for want of libfaketime: {', '.join(left_out)}."
    headings = (
        *("fault", "accepted", "answered", "degraded, by reason", "breaker opened after, s"),
        *("p99 before, ms", "p99 once open, ms", "longest, s", "to normal, s"),
    )
    body = [
        (
            one["name"] + (f" ({one['refused']} not accepted)" if one["hits_device"] else ""),
            one["accepted"],
            one["answered"],
            ", ".join(f"{why} {count}" for why, count in sorted(one["degraded"].items())) or "none",
            _figure(one["breaker_opened_s"], 2),
            _figure(one["p99_before_ms"], 1),
            _figure(one["p99_after_opening_ms"], 1),
            _figure(one["longest_s"], 2),
            _figure(one["to_normal_s"], 2),
        )
        for one in found["rows"]
    ]
    checks = [
        (one["what"], f"{one['found']:.3g}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    return "\n\n".join((intro, table(headings, body), table(("what", "found", "bar", ""), checks)))


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
