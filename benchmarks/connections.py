"""What callers who mean no good cost the others, in latency, in memory and in file handles.

python -m benchmarks.connections [--rounds N] [--seconds S]

    device, all stages, on one core     <-- 4 devices, 100 requests a second, from a process on another core
                                        <-- attackers, raw HTTP/2, from a process beside it, at the lowest priority

In each round once without attackers and then with one kind of them after the other: while they come, and while they are
there. Those that the tier ends come again. Exit code 1 where a bar is broken. As it is, it takes about five minutes.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.chaos.processes import TierRun, total
from benchmarks.devices.fleet import drive
from benchmarks.devices.loads import Open, Outcome
from benchmarks.devices.processes import allow_files, load_process
from benchmarks.devices.stream import Form
from benchmarks.hostile.attack import Attack, attacked
from benchmarks.serving.machine import machine
from benchmarks.serving.measuring import TreeMeter
from benchmarks.serving.report import said
from benchmarks.serving.running import cores
from benchmarks.serving.summary import bar, spread
from benchmarks.soak import resident_mb
from benchmarks.table import table, verdict
from offramp.data import fashion_mnist

NAME, COMMAND = "connections", "benchmarks.connections"
EXAMPLE = Path("examples/fashion_mnist")
ATTACKS = {
    "nothing said": Attack(kind="idle", connections=10_000, sources=10, opens_hz=1_000),
    "HTTP/2 begun": Attack(kind="greeted", connections=10_000, sources=10, opens_hz=1_000),
    "a byte at a time": Attack(
        kind="slow", connections=1_000, sources=4, opens_hz=500, beats_hz=1_000
    ),
    "streams reset": Attack(kind="dropped", connections=100, beats_hz=200),
    "streams half-closed": Attack(kind="half-closed", connections=100, beats_hz=200),
    "results not read": Attack(kind="unread", connections=200, beats_hz=200),
    "streams reset, a flood": Attack(kind="dropped", connections=100, beats_hz=2_000),
}
UNBARRED = {
    "streams reset, a flood"
}  # what gRPC for Python needs for a stream is most of a core at that rate
BAR, HANDLES, GROWTH = 1.5, 8, 1.1
_DEVICES, _RATE_HZ, _DEADLINE_S, _WARM_S = 4, 25.0, 1.0, 1.0
_SETTLED_S = 20.0
_LOOKED_EVERY_S = 0.1
_COUNTED_EVERY_S = 0.5  # to list ten thousand handles takes time

Run = Callable[..., list[Outcome]]


class Tier:
    """The tier's process, and what it holds."""

    def __init__(self, core: int) -> None:
        self._run = TierRun(
            "device", EXAMPLE / "bundle", **{"plan.last_stage": 2, "log_level": "error"}
        )
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # which the process takes over, with all its threads
        try:
            self._run.start()
        finally:
            os.sched_setaffinity(0, allowed)
        self.address, self.meter = self._run.listen, TreeMeter(self._run.process_id)

    def holds(self) -> tuple[float, int]:
        """Resident memory in MB, and file handles."""
        process_id = self._run.process_id
        return resident_mb(process_id), len(list(Path(f"/proc/{process_id}/fd").iterdir()))

    def limited(self) -> dict[str, float]:
        """How often each limit refused or ended something so far."""
        found = self._run.counted()
        names = ("streams", "streams_per_peer", "streams_hz", "idle", "stalled")
        return {name: total(found, "offramp_limits_total", f'"{name}"') for name in names}

    def settled_s(self, handles: int) -> float:
        """How long it takes until no more handles than that are held, and it does nothing; 20 s at most."""
        began, spent_s, quiet = time.monotonic(), self.meter.cpu_s(), 0
        back_s = _SETTLED_S
        while quiet < 5 and time.monotonic() - began < _SETTLED_S:
            time.sleep(_LOOKED_EVERY_S)
            before_s, spent_s = spent_s, self.meter.cpu_s()
            if self.holds()[1] <= handles:
                back_s = min(back_s, time.monotonic() - began)
                quiet = quiet + 1 if spent_s - before_s < _LOOKED_EVERY_S / 5 else 0
        return back_s

    def end(self) -> None:
        """End it."""
        self._run.end()


@contextmanager
def most_held(tier: Tier) -> Iterator[list[tuple[float, int]]]:
    """One pair, of the most memory and the most handles held meanwhile, once it is over."""
    seen, ended = [tier.holds()], threading.Event()

    def watch() -> None:
        while not ended.wait(_COUNTED_EVERY_S):
            seen.append(tier.holds())

    thread = threading.Thread(target=watch, name="holds")
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen[:] = [(max(mb for mb, _ in seen), max(handles for _, handles in seen))]


def latencies(outcome: Outcome, since_s: float, until_s: float) -> dict[str, float]:
    """Of the requests due then; one without an answer counts as having taken its deadline."""
    due = (outcome.due_s >= since_s) & (outcome.due_s < until_s)
    took_s = np.where(outcome.answered, outcome.took_s, _DEADLINE_S)[due]
    p50, p99 = np.percentile(took_s, (50, 99)) * 1e3
    unanswered = int((~outcome.answered[due]).sum())
    return {
        "requests": len(took_s),
        "unanswered": unanswered,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


class Others:
    """The devices that behave, in a process of their own."""

    def __init__(self, run: Run, tier: Tier) -> None:
        images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)[:512]
        payloads = [image.tobytes() for image in images]
        self._run, self._tier = run, tier
        self._form = Form(boundary=0, policy="", payloads=payloads)

    def ask(self, seconds: float, seed: int) -> Outcome:
        """What became of their requests."""
        load = Open(
            rates_hz=[_RATE_HZ] * _DEVICES, seconds=seconds, seed=seed, deadline_s=_DEADLINE_S
        )
        meters = {"tier": self._tier.meter}
        outcome = self._run(drive, self._tier.address, _DEVICES, self._form, [load], meters)[0]
        self._run(gc.unfreeze)  # what drive() froze holds its connections
        self._run(gc.collect)
        return outcome


def calm(others: Others, seconds: float, seed: int) -> dict[str, Any]:
    """Nobody attacks."""
    outcome = others.ask(_WARM_S + seconds, seed)
    return {**latencies(outcome, _WARM_S, _WARM_S + seconds), "core_share": _share(outcome)}


def _share(outcome: Outcome) -> float:
    return outcome.window.tiers_cpu_s["tier"] / outcome.window.wall_s


def under(attack: Attack, tier: Tier, others: Others, seconds: float, seed: int) -> dict[str, Any]:
    """While the attackers come, while they are there, and once they have gone."""
    coming_s = _WARM_S + min(attack.connections / attack.opens_hz, seconds)
    limited, (before_mb, handles) = tier.limited(), tier.holds()
    with most_held(tier) as held, attacked(tier.address, attack) as attackers:
        coming = others.ask(coming_s, seed)
        attackers.wait_opened()
        there = others.ask(_WARM_S + seconds, seed)
    back_s = tier.settled_s(handles + HANDLES)
    after_mb, handles_after = tier.holds()
    most_mb, most_handles = held[0]
    return {
        "coming": latencies(coming, _WARM_S, coming_s),
        "there": latencies(there, _WARM_S, _WARM_S + seconds),
        "core_share": _share(there),
        "resident_mb": {"before": before_mb, "most": most_mb, "after": after_mb},
        "handles": {"before": handles, "most": most_handles, "after": handles_after},
        "back_s": back_s,
        "limited": {
            name: n - limited[name] for name, n in tier.limited().items() if n > limited[name]
        },
        "attackers": asdict(attackers.report),
    }


def ratio(rounds: Sequence[Mapping[str, Any]], name: str, part: str = "there") -> float:
    """The others' p99 under that attack over that without one in the same round, the median."""
    return median(one[name][part]["p99_ms"] / one["calm"]["p99_ms"] for one in rounds)


def bars(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the issue asks, and what was found."""
    found = [
        bar(f"p99 of the others over that without attackers: {name}", ratio(rounds, name), BAR)
        for name in ATTACKS
        if name not in UNBARRED
    ]
    every = [one[name] for one in rounds for name in ATTACKS]
    left = max(one["handles"]["after"] - one["handles"]["before"] for one in every)
    most = [max(one[name]["resident_mb"]["most"] for name in ATTACKS) for one in rounds]
    unanswered = sum(one[part]["unanswered"] for one in every for part in ("coming", "there"))
    return [
        *found,
        bar("requests of the others without an answer", float(unanswered), 0.0),
        bar("file handles not given back, at most", float(max(left, 0)), float(HANDLES)),
        bar("most memory of the last round over that of the first", most[-1] / most[0], GROWTH),
    ]


def measured(rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """What `found` of the record is."""
    server_core, load_core = cores()
    before = os.getloadavg()[0]
    allow_files()
    os.sched_setaffinity(0, {load_core})  # this process looks, and should not be seen
    made: list[dict[str, Any]] = []
    tier = Tier(server_core)
    try:
        with load_process(load_core) as run:
            others = Others(run, tier)
            others.ask(_WARM_S, seed)
            for number in range(rounds):
                one: dict[str, Any] = {"calm": calm(others, seconds, seed + number)}
                for name, attack in ATTACKS.items():
                    one[name] = under(attack, tier, others, seconds, seed + number)
                made.append(one)
                ratios = ", ".join(f"{name} {ratio(made[-1:], name):.2f}" for name in ATTACKS)
                print(f"round {number}: p99 over that without, {ratios}", file=sys.stderr)
    finally:
        tier.end()
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "attacks": {name: asdict(attack) for name, attack in ATTACKS.items()},
        "rounds": made,
        "bars": bars(made),
    }


def _row(
    rounds: Sequence[Mapping[str, Any]], name: str, attack: Mapping[str, Any]
) -> tuple[str, ...]:
    ones = [one[name] for one in rounds]
    pace = f", {attack['beats_hz']:g}/s" if attack["beats_hz"] else ""
    back = spread([one["back_s"] for one in ones])
    return (
        f"{attack['connections']:,} x {name}{pace}",
        said(spread([one["coming"]["p99_ms"] for one in ones]), 1),
        said(spread([one["there"]["p50_ms"] for one in ones]), 1),
        said(spread([one["there"]["p99_ms"] for one in ones]), 1),
        f"{ratio(rounds, name):.2f}",
        f"{median(one['core_share'] for one in ones):.0%}",
        _through([one["resident_mb"] for one in ones]),
        _through([one["handles"] for one in ones]),
        said(back, 1),
    )


def _through(held: Sequence[Mapping[str, float]]) -> str:
    """Medians before, at most and after."""
    return " / ".join(
        f"{median(one[at] for one in held):,.0f}" for at in ("before", "most", "after")
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    host, rounds = found["machine"], found["rounds"]
    intro = (
        f"`{record['command']}`: a device with all stages of the example on core {host['server_core']} of a "
        f"{host['processor']}; {_DEVICES} devices ask it {_DEVICES * _RATE_HZ:g} times a second from core "
        f"{host['load_core']}, where the attackers run, too, at a low priority: what they cost the tier counts, not "
        "what making them costs. They come from 127/8, a new one for each that the tier ends. "
        f"{len(rounds)} rounds, {found['seconds']:g} s without and with each kind in turn; medians and range, in ms. "
        "Memory (MB) and file handles of the tier are medians before / at most / after."
    )
    quiet = [one["calm"] for one in rounds]
    rows = [
        (
            "nobody",
            "",
            said(spread([one["p50_ms"] for one in quiet]), 1),
            said(spread([one["p99_ms"] for one in quiet]), 1),
            "1",
            f"{median(one['core_share'] for one in quiet):.0%}",
            "",
            "",
            "",
        )
    ]
    rows += [_row(rounds, name, attack) for name, attack in found["attacks"].items()]
    headings = (
        *("attackers", "p99 while they come", "p50", "p99", "over calm", "CPU of the core"),
        *("memory", "handles", "s until back"),
    )
    checks = [
        (one["what"], f"{one['found']:.3g}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    return "\n\n".join((intro, table(headings, rows), table(("what", "found", "bar", ""), checks)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="without and with each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    args = parser.parse_args(argv)
    found = measured(args.rounds, args.seconds, args.seed)
    return record.conclude(
        found,
        name=NAME if args.rounds >= 3 else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed + number for number in range(args.rounds)],
    )


if __name__ == "__main__":
    sys.exit(main())
