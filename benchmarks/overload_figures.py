"""What an overload came to: goodput, what became of the rest, recovery; the bars and the section of docs/results.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.devices.loads import Open, Outcome, answer_code, named
from benchmarks.serving.summary import bar
from benchmarks.table import table, verdict
from offramp.rpc import Tier

_WINDOW_S = 0.25
_NORMAL = 1.25  # of the median before, for a window to count as normal
AT_ONCE_MS = 10.0
_FOG = answer_code(Tier.FOG)


def _percentiles_ms(took_s: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(took_s):
        return None
    p50, p99 = np.percentile(took_s, (50, 99)) * 1e3
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def of_overload(outcome: Outcome, load: Open, in_flight: Sequence[int]) -> dict[str, Any]:
    """The figures of one overload as JSON.

    Goodput: answers of the fog that came within the deadline, a second of the load. in_flight: of the fog, as scraped.
    """
    window, codes = outcome.window, outcome.codes
    good = (codes == _FOG) & (outcome.took_s <= load.deadline_s)
    excess = outcome.answered & (codes != _FOG)
    return {
        "offered_hz": len(codes) / load.seconds,
        "goodput_hz": int(good.sum()) / load.seconds,
        "ended": {named(code): count for code, count in sorted(Counter(codes.tolist()).items())},
        "unanswered": int((~outcome.answered).sum()),
        "good_ms": _percentiles_ms(outcome.took_s[good]),
        "excess_ms": _percentiles_ms(outcome.took_s[excess]),
        "by_reason_ms": {
            named(code): _percentiles_ms(outcome.took_s[codes == code])
            for code in sorted(set(codes[excess].tolist()))
        },
        "refused_ms": _percentiles_ms(outcome.took_s[codes < 0]),
        "late_ms": outcome.late_s * 1e3,
        "most_in_flight": max(in_flight, default=0),
        "in_flight": list(in_flight),
        "load_core_share": window.load_cpu_s / window.wall_s,
        "tier_core_share": {k: spent / window.wall_s for k, spent in window.tiers_cpu_s.items()},
    }


def recovery_s(before: Outcome, after: Outcome, ended: float) -> float | None:
    """Seconds from the end of an overload to the first quarter second that is as before; None where there is none.

    That is: all its answers are the fog's, and their median is at most 1.25 of the median before.
    """
    normal_s = _NORMAL * float(np.median(before.took_s[before.codes == _FOG]))
    asked = after.began + after.due_s
    places = ((asked - after.began) / _WINDOW_S).astype(int)
    for place in range(places.max(initial=-1) + 1):
        own = places == place
        if not own.any() or (after.codes[own] != _FOG).any():
            continue
        if float(np.median(after.took_s[own])) <= normal_s:
            return float(max(0.0, asked[own][0] - ended))
    return None


def _over_rounds(rounds: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[Any]:
    return [one[kind][name] for one in rounds]


def _share(rounds: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Goodput over the closed-loop rate of the same round, the median."""
    return float(median(one[kind]["goodput_hz"] / one["closed_hz"] for one in rounds))


def _excess(rounds: Sequence[Mapping[str, Any]], percentile: str) -> float | None:
    found = [one[percentile] for one in _over_rounds(rounds, "credits", "excess_ms") if one]
    return median(found) if found else None


def bars(
    rounds: Sequence[Mapping[str, Any]], limit: int, deadline_s: float
) -> list[dict[str, Any]]:
    """What the issue asks of W4, and what was found."""
    most = max(one[kind]["most_in_flight"] for one in rounds for kind in ("credits", "ignoring"))
    recovered = _over_rounds(rounds, "credits", "recovery_s")
    slowest = float("inf") if None in recovered else max(recovered)
    left = float(sum(_over_rounds(rounds, "credits", "unanswered")))
    checks = [
        bar("fog goodput with credits, over its rate", _share(rounds, "credits"), 0.90, least=True),
        bar(
            "fog goodput, credits ignored, over its rate",
            _share(rounds, "ignoring"),
            0.75,
            least=True,
        ),
        bar("requests of the device left without an answer", left, 0.0),
        bar("answers of the device to the excess, p50, ms", _excess(rounds, "p50"), AT_ONCE_MS),
        bar(
            "answers of the device to the excess, p99, ms", _excess(rounds, "p99"), deadline_s * 1e3
        ),
        bar("most samples in flight in the fog", float(most), float(limit)),
        bar("back to normal latency after, s, the slowest round", slowest, 2.0),
    ]
    for check in checks:  # JSON knows no infinity
        check["found"] = None if check["found"] == float("inf") else check["found"]
    return checks


def _ms(figures: Mapping[str, float] | None) -> str:
    return "-" if figures is None else f"{figures['p50']:.1f} / {figures['p99']:.1f}"


def _row(number: int, one: Mapping[str, Any], kind: str, title: str) -> tuple[str, ...]:
    found = one[kind]
    shares = [f"{name} {share:.0%}" for name, share in found["tier_core_share"].items()]
    return (
        f"{number}: {title}",
        f"{found['offered_hz']:.0f} / {one['closed_hz']:.0f}",
        f"{found['goodput_hz']:.0f} ({found['goodput_hz'] / one['closed_hz']:.2f})",
        ", ".join(f"{name} {count}" for name, count in found["ended"].items()),
        _ms(found["good_ms"]),
        _ms(found["excess_ms"] or found["refused_ms"]),
        str(found["most_in_flight"]),
        f"{', '.join(shares)}, load generator {found['load_core_share']:.0%}",
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    host, rounds = found["machine"], found["rounds"]
    titles = {"credits": "through a device tier", "ignoring": "straight, credits ignored"}
    rows = [
        _row(k, one, kind, title) for k, one in enumerate(rounds) for kind, title in titles.items()
    ]
    headings = (
        "round",
        "offered / closed loop, a second",
        "goodput, a second (share)",
        "how requests ended",
        "fog's answers, p50 / p99, ms",
        "the excess, p50 / p99, ms",
        "most in flight",
        "CPU of a core",
    )
    late = max(one[kind]["late_ms"] for one in rounds for kind in titles)
    intro = (
        f"`{record['command']}`: one fog node on core {host['server_core']} of a {host['processor']}; the device "
        f"tier and the load generator share core {host['load_core']}. Its rate: closed loop, "
        f"{found['closed_in_flight']} in flight, asked directly. Then {found['over']:g} times that, Poisson, "
        f"{found['deadline_s'] * 1e3:g} ms each, for {found['seconds']:g} s: through the device tier, which runs "
        "one convolution and answers what the fog does not, and straight from a sender that counts no credits. "
        f"The fog runs {found['convolutions']} convolutions: on an even split the device's core could not offer "
        "twice its rate. Goodput is the fog's answers within the deadline. 99 % of the requests were sent "
        f"within {late:.1f} ms of being due, and are timed from then."
    )
    checks = [
        (one["what"], _found(one["found"]), one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    judged = (
        "Bars; shares and latencies are the median of the rounds, the others the worst of them:"
    )
    reached = table(("what", "found", "bar", ""), checks)
    return "\n\n".join((intro, table(headings, rows), judged, reached))


def _found(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
