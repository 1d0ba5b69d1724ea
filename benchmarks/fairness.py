"""What one device that floods costs the others.

python -m benchmarks.fairness [--rounds N] [--seconds S] [--batch N]

    8 devices, each its own connection --Poisson, each its share, one sample a message--> one tier
    the first of them sends ten times its share, and counts no credits

Twice: with a flood that leaves the tier room (20 % of its capacity are offered without it, 42 % with it), and with one
that does not (50 % and 106 %). Its capacity is what a closed loop reaches, in full batches; of the requests that come
one by one each costs more, so that the core is far busier than these shares say (the record has both). With and without
the flood in turn: the requests of the other seven are due at the same times in both. Exit code 1 where a bar is
broken. As it is, it takes three minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.devices import network
from benchmarks.devices.fleet import drive
from benchmarks.devices.loads import Closed, Open, Outcome, named
from benchmarks.devices.processes import TierProcess, load_process, tier
from benchmarks.serving.machine import machine
from benchmarks.serving.report import said
from benchmarks.serving.running import cores
from benchmarks.serving.summary import bar, spread
from benchmarks.table import table, verdict

NAME, COMMAND = "fairness", "benchmarks.fairness"
DEVICES, FLOOD = 8, 10
KINDS = {"below": 0.2, "above": 0.5}  # of the capacity, without the flood
BAR = 1.20
_CONVOLUTIONS = 4  # a sample then costs about what the network of W1 does
_DEADLINE_S, _WARM_S = 1.0, 1.0
_CLOSED_IN_FLIGHT = 4  # on each device
_BATCH = 32  # the tiers' default

Run = Callable[..., list[Outcome]]


def of_others(outcome: Outcome, deadline_s: float) -> dict[str, Any]:
    """Latencies of all but the first device; a request without an answer counts as having taken its deadline."""
    others = (outcome.devices > 0) & (outcome.due_s >= _WARM_S)
    took_s = np.where(outcome.answered, outcome.took_s, deadline_s)[others]
    p50, p99 = np.percentile(took_s, (50, 99)) * 1e3
    codes, counts = np.unique(outcome.codes[~others], return_counts=True)
    window = outcome.window
    return {
        "requests": int(others.sum()),
        "unanswered": int((~outcome.answered[others]).sum()),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "first_ended": {named(code): int(n) for code, n in zip(codes, counts, strict=True)},
        "core_share": window.tiers_cpu_s["tier"] / window.wall_s,
        "load_core_share": window.load_cpu_s / window.wall_s,
        "late_ms": outcome.late_s * 1e3,
    }


def _load(kind: str, capacity_hz: float, seconds: float, seed: int, times: int) -> Open:
    """Every device at its share, the first at so many times it."""
    share_hz = KINDS[kind] * capacity_hz / DEVICES
    rates = [times * share_hz, *[share_hz] * (DEVICES - 1)]
    return Open(rates_hz=rates, seconds=seconds, seed=seed, deadline_s=_DEADLINE_S, warm_s=_WARM_S)


def _capacity_hz(run: Run, server: TierProcess, seconds: float) -> float:
    load = Closed(in_flight=_CLOSED_IN_FLIGHT, seconds=seconds, warm_s=_WARM_S)
    (found,) = run(drive, server.address, DEVICES, network.codes(together=1), [load], {})
    return found.window.results / found.window.wall_s


def _alternating(
    run: Run, server: TierProcess, capacity_hz: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Both kinds without and with the flood; in every second round the flood comes first."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        order = ("quiet", "flood") if seed % 2 else ("flood", "quiet")
        loads = [
            _load(kind, capacity_hz, seconds, seed, FLOOD if name == "flood" else 1)
            for name in order
        ]
        meters = {"tier": server.meter}
        outcomes = run(drive, server.address, DEVICES, network.codes(together=1), loads, meters)
        figures = [of_others(outcome, _DEADLINE_S) for outcome in outcomes]
        found[kind] = dict(zip(order, figures, strict=True))
    return found


def costs(rounds: Sequence[dict[str, Any]], kind: str) -> float:
    """The others' p99 with the flood over that without in the same round, the median."""
    found = [one[kind]["flood"]["p99_ms"] / one[kind]["quiet"]["p99_ms"] for one in rounds]
    return float(median(found))


def bars(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the issue asks of fairness, and what was found."""
    left = sum(
        one[kind][name]["unanswered"] for one in rounds for kind in KINDS for name in one[kind]
    )
    what = "p99 of the others with the flood over that without, the tier"
    return [
        bar(f"{what} with room", costs(rounds, "below"), BAR),
        bar(f"{what} without", costs(rounds, "above"), BAR),
        bar("requests of the others without an answer", float(left), 0.0),
    ]


def measured(rounds: int, seconds: float, batch: int, seed: int) -> dict[str, Any]:
    """What `found` of the record is."""
    server_core, load_core = cores()
    before = os.getloadavg()[0]
    bundle, made = network.split(_CONVOLUTIONS), []
    with (
        load_process(load_core) as run,
        tier("fog", bundle, server_core, inference__batch=batch) as server,
    ):
        capacity_hz = _capacity_hz(run, server, seconds)
        for number in range(rounds):
            made.append(_alternating(run, server, capacity_hz, seconds, seed + number))
            ratios = ", ".join(f"{kind} {costs(made[-1:], kind):.2f}" for kind in KINDS)
            print(f"round {number}: p99 with the flood over without, {ratios}", file=sys.stderr)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "batch": batch,
        "capacity_hz": capacity_hz,
        "shares": KINDS,
        "rounds": made,
        "bars": bars(made),
    }


def _row(rounds: Sequence[dict[str, Any]], kind: str, name: str, share: float) -> tuple[str, ...]:
    ones = [one[kind][name] for one in rounds]
    offered = share * (DEVICES - 1 + (FLOOD if name == "flood" else 1)) / DEVICES
    ended = ones[0]["first_ended"]
    total = sum(ended.values())
    return (
        f"{offered:.0%} offered, {'with' if name == 'flood' else 'without'} the flood",
        said(spread([one["p50_ms"] for one in ones]), 1),
        said(spread([one["p99_ms"] for one in ones]), 1),
        ", ".join(f"{how} {count / total:.0%}" for how, count in ended.items()),
        f"{median(one['core_share'] for one in ones):.0%}",
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    host, rounds = found["machine"], found["rounds"]
    intro = (
        f"`{record['command']}`: a tier on core {host['server_core']} of a {host['processor']}, the load "
        f"generator on core {host['load_core']}; {_CONVOLUTIONS} convolutions a sample, batches of at most "
        f"{found['batch']}, {found['capacity_hz']:.0f} samples a second in a closed loop. {DEVICES} devices "
        f"offer a share of that; then the first sends {FLOOD} times its own and heeds no credits, "
        f"{_DEADLINE_S:g} s of deadline each. {len(rounds)} rounds of {found['seconds']:g} s, with and without "
        f"the flood in turn; medians and range, in ms, of the other {DEVICES - 1} devices."
    )
    rows = [
        _row(rounds, kind, name, share)
        for kind, share in found["shares"].items()
        for name in ("quiet", "flood")
    ]
    headings = ("", "p50", "p99", "how the first device's ended", "CPU of the core")
    checks = [
        (one["what"], f"{one['found']:.3g}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    judged = "Bars, each the median of the ratios within the rounds:"
    return "\n\n".join(
        (intro, table(headings, rows), judged, table(("what", "found", "bar", ""), checks))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--batch", type=int, default=_BATCH, help="the most samples in a batch")
    parser.add_argument("--seed", type=int, default=network.SEED, help="of the first round")
    args = parser.parse_args(argv)
    if args.seconds <= _WARM_S:
        parser.error(f"--seconds: {args.seconds:g}, but the first {_WARM_S:g} are not measured")
    found = measured(args.rounds, args.seconds, args.batch, args.seed)
    return record.conclude(
        found,
        name=NAME,
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed + number for number in range(args.rounds)],
    )


if __name__ == "__main__":
    sys.exit(main())
