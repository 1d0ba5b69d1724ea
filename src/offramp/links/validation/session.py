"""One validation: a link in a process of its own, put through rehearsals by its own control, and measured.

bare path -> start the link -> delays -> rates -> holds -> calls over holds -> (packet) loss, drops -> stop
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offramp.links import probing
from offramp.links.engines.frames import HEADERS_BYTES, payload_share
from offramp.links.running import RunningLink, running_link
from offramp.links.timeline import State, Timeline
from offramp.links.validation import checks, datagrams, rehearsals
from offramp.links.validation.checks import Check

_HOLDS_S = (0.1, 0.3, 1.0)
_APART_S = 1.5
_DROP_S = 0.3
_CALL_BYTES = 150_000
_BULK_S = 3.0
_LOSS_S, _DATAGRAMS_PER_S = 10.0, 2000.0
_BARE_PROBES, _BARE_S = 500, 4.0
_PROBE_BYTES, _CONNECTIONS = 64, 8


@dataclass(slots=True)
class Report:
    """What was measured, and what could not be, with the reason."""

    facts: dict[str, Any] = field(default_factory=dict)
    bare: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every quantity that was measured is within its bounds."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The whole of it."""
        return {
            **self.facts,
            "bare": self.bare,
            "checks": [check.as_json() for check in self.checks],
            "skipped": self.skipped,
            "passed": self.passed,
        }


def validate(
    timeline: Timeline, engine: str, *, seconds: float, probes: int, tell: Callable[[str], None]
) -> Report:
    """Measure every quantity that the engine has. seconds: for the probes of the round trip; the rest takes 80.

    tell: hears what is being measured. Raises TierUnavailable where the link does not start or stops.
    """
    report = Report()
    peer = probing.Peer()
    try:
        tell("the bare path")
        sent, _, back = probing.round_trips(peer.endpoint, _BARE_PROBES, _BARE_S)
        bare_s = back - sent
        report.bare = {
            f"round_trip_p{percent}_ms": 1e3 * float(np.percentile(bare_s, percent))
            for percent in (50, 95, 99)
        }
        with running_link(timeline, engine, peer.endpoint) as link:
            report.facts = {
                name: link.status[name]
                for name in ("engine", "profile", "kind", "seed", "mtu", "congestion")
            }
            report.facts |= {
                name: link.status[name] for name in ("own_delay_ms", "limit_mbit", "clipped")
            }
            tell("round trips")
            report.checks += _round_trips(link, timeline, probes, seconds, bare_s)
            for percent in (50, 95):
                tell(f"rates at their p{percent}")
                report.checks += _goodputs(link, rehearsals.rate_only(timeline, percent))
            tell("outages")
            report.checks += _holds(link, timeline)
            tell("calls over outages")
            report.checks += _calls(link, timeline)
            _losses(link, timeline, report, tell)
    finally:
        peer.close()
    return report


def _round_trips(
    link: RunningLink, timeline: Timeline, probes: int, seconds: float, bare_s: Any
) -> list[Check]:
    shaped = rehearsals.delays_only(timeline)
    origin_s = link.put(shaped)
    sent, turned, back = probing.round_trips(link.address, probes, seconds, _CONNECTIONS)
    rows_s = rehearsals.rows_round_trip_s(shaped, origin_s, sent, turned)
    limit = link.status["limit_mbit"] or float("inf")
    for way in (shaped.up, shaped.down):
        rows_s += (_PROBE_BYTES + HEADERS_BYTES) * 8e-6 / min(limit, float(way.rate_mbit[0]))
    return checks.round_trip(rows_s, back - sent, bare_s)


def _goodputs(link: RunningLink, shaped: Timeline) -> list[Check]:
    link.put(shaped)
    limit = link.status["limit_mbit"] or float("inf")
    share = payload_share(link.status["mtu"])
    up, down = (min(limit, float(way.rate_mbit[0])) for way in (shaped.up, shaped.down))
    return [
        checks.goodput("up", up, share, probing.bulk_up_mbit(link.address, _BULK_S)),
        checks.goodput("down", down, share, probing.bulk_down_mbit(link.address, _BULK_S)),
    ]


def _holds(link: RunningLink, timeline: Timeline) -> list[Check]:
    shaped, outages = rehearsals.outages_only(timeline, State.HOLD, _HOLDS_S, _APART_S)
    origin_s = link.put(shaped)
    # Up to just before the lap's end: the open rows after the last outage are enough for what was held.
    times = probing.arrivals(link.address, origin_s + shaped.duration_s - _APART_S / 2)
    gaps = checks.longest_gaps(times, len(outages))
    return [checks.outage("hold", o.length_s, gap) for o, gap in zip(outages, gaps, strict=True)]


def _calls(link: RunningLink, timeline: Timeline) -> list[Check]:
    shaped, outages = rehearsals.outages_only(timeline, State.HOLD, _HOLDS_S, _APART_S)
    origin_s = link.put(shaped)
    found = []
    caller = probing.Caller(link.address, _CALL_BYTES)
    try:
        for start_s, length_s in outages:
            usual_s: list[float] = []
            while time.monotonic() + max(usual_s, default=0.0) < origin_s + start_s - 0.2:
                usual_s.append(caller.call_s())
            begin_s = origin_s + start_s + 0.3 * length_s
            time.sleep(max(0.0, begin_s - time.monotonic()))
            left_s = origin_s + start_s + length_s - time.monotonic()
            added_s = caller.call_s() - statistics.median(usual_s[1:] or usual_s or [0.0])
            found.append(checks.held_call(length_s, left_s, added_s))
    finally:
        caller.close()
    return found


def _losses(
    link: RunningLink, timeline: Timeline, report: Report, tell: Callable[[str], None]
) -> None:
    segment = link.status.get("segment")
    if segment is None:
        engine = link.status["engine"]
        for quantity in ("loss", "drop"):
            report.skipped[quantity] = f"engine {engine} has no segment to send datagrams over"
        return
    tell("losses")
    link.put(rehearsals.losses_only(timeline))
    sent = datagrams.send_datagrams(segment, _LOSS_S, _DATAGRAMS_PER_S)
    counts = {
        "up": (len(sent.sent_s), len(sent.sent_s) - len(sent.arrived)),
        "down": (len(sent.arrived), len(sent.arrived) - len(sent.answered)),
    }
    for way, loss in rehearsals.loss_of(timeline).items():
        if loss is None:
            report.skipped[f"loss {way}"] = "the timeline has none"
        else:
            report.checks.append(checks.loss(way, loss, *counts[way]))
    shaped, outages = rehearsals.outages_only(timeline, State.DROP, [_DROP_S], _APART_S)
    link.put(shaped)
    sent = datagrams.send_datagrams(segment, shaped.duration_s - _APART_S / 2, _DATAGRAMS_PER_S)
    longest_s = datagrams.longest_loss_s(sent)
    report.checks.append(checks.outage("drop", outages[0].length_s, longest_s))
