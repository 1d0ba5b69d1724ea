"""Where the CPU time of a request goes in one tier, by thread, beside the floor.

python -m benchmarks.serving.where [--rounds N] [--seconds S]

    one in flight, eight in flight -> /proc/PID/task/*/schedstat in the middle of the load -> us a request and thread
    the tier's own Python by itself (`alone`)                                              -> us a request, caches warm

Nothing here has a bar; docs/performance.md says what the figures mean. A minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.serving.alone import sample_us
from benchmarks.serving.compute import bare
from benchmarks.serving.loads import Closed, Generator, Target
from benchmarks.serving.machine import machine
from benchmarks.serving.network import SEED, Prepared, prepare
from benchmarks.serving.report import host_said, said
from benchmarks.serving.running import Running, cores, free_port, running
from benchmarks.serving.summary import spread
from benchmarks.serving.systems import SYSTEMS, System
from benchmarks.serving.trial import expected_labels
from benchmarks.table import table

COMMAND, NAME = "benchmarks.serving.where", "serving_where"
NAMES, IN_FLIGHT = ("floor", "offramp"), (1, 8)
LOOP, GRPC, OTHER = "event loop", "gRPC's own threads", "other threads of Python"
_OF_GRPC = ("event_engine", "grpc", "lifeguard", "timer")
_BEFORE_S, _AFTER_S, _MESSAGES = 1.5, 0.5, 3200


class Spent(Counter[str]):
    """Nanoseconds by kind of thread, and how often one of them was switched to."""

    SWITCHES = "switches"

    @classmethod
    def until_now(cls, process_ids: Sequence[int]) -> Spent:
        """Of the threads that there are."""
        found = cls()
        for process_id in process_ids:
            for folder in Path(f"/proc/{process_id}/task").iterdir():
                with suppress(OSError):
                    nanoseconds, _, switches = map(int, (folder / "schedstat").read_text().split())
                    name = (folder / "comm").read_text().strip()
                    found[_kind(name, is_main=folder.name == str(process_id))] += nanoseconds
                    found[cls.SWITCHES] += switches
        return found


def _kind(name: str, *, is_main: bool) -> str:
    if is_main:
        return LOOP
    return GRPC if name.startswith(_OF_GRPC) else OTHER


def _watched(
    generator: Generator, target: Target, server: Running, in_flight: int, seconds: float
) -> dict[str, Any]:
    """Microseconds a request by kind of thread, and switches a request, over the middle of a load."""
    snaps: list[tuple[float, Spent]] = []

    def watch() -> None:
        time.sleep(_BEFORE_S)
        for _ in range(2):
            snaps.append((time.monotonic(), Spent.until_now(server.meter.process_ids())))
            time.sleep(seconds)

    watcher = threading.Thread(target=watch)
    watcher.start()
    load = Closed(in_flight=in_flight, seconds=_BEFORE_S + seconds + _AFTER_S)
    outcome = generator.drive(target, load, server.meter)
    watcher.join()
    (began, before), (ended, after) = snaps
    requests = outcome.images / outcome.wall_s * (ended - began)
    spent = Counter(after)
    spent.subtract(before)
    switches = spent.pop(Spent.SWITCHES)
    return {
        "us": {kind: round(value / 1e3 / requests, 2) for kind, value in spent.items()},
        "switches": round(switches / requests, 2),
        "p50_us": round(float(median(outcome.latencies_s)) * 1e6, 1),
        "wrong": outcome.wrong,
    }


def _one(
    prepared: Prepared, generator: Generator, system: System, core: int, seconds: float
) -> dict[str, Any]:
    port = free_port()
    target = Target(
        system.protocol, f"127.0.0.1:{port}", prepared.images, expected_labels(prepared)
    )
    with running(system.start(prepared, port), core, f"where-{system.name}") as server:
        generator.first_answer(target, system.within_s)
        return {
            str(count): _watched(generator, target, server, count, seconds) for count in IN_FLIGHT
        }


def measured(rounds: int, seconds: float) -> dict[str, Any]:
    """What `found` of the record is."""
    prepared = prepare()
    server_core, load_core = cores()
    before, made = os.getloadavg()[0], []
    with Generator(load_core) as generator:
        for _ in range(rounds):
            row: dict[str, Any] = {
                name: _one(prepared, generator, SYSTEMS[name], server_core, seconds)
                for name in NAMES
            }
            row["compute_us"] = {
                str(batch): bare([prepared.model], batch, 0.5, server_core)[0].cpu_ms * 1e3
                for batch in IN_FLIGHT
            }
            row["alone_us"] = {str(n): asyncio.run(sample_us(n, _MESSAGES // n)) for n in (1, 32)}
            made.append(row)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "rounds": made,
    }


def _row(rounds: Sequence[Mapping[str, Any]], name: str, in_flight: int) -> tuple[str, ...]:
    ones = [one[name][str(in_flight)] for one in rounds]
    kinds = [said(spread([one["us"].get(k, 0.0) for one in ones]), 0) for k in (LOOP, OTHER, GRPC)]
    return (
        f"{name}, {in_flight} in flight",
        *kinds,
        said(spread([sum(one["us"].values()) for one in ones]), 0),
        said(spread([one["switches"] for one in ones]), 1),
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rounds = found["rounds"]
    headings = ("CPU us a request", LOOP, OTHER, GRPC, "all", "switches to a thread")
    rows = [_row(rounds, name, count) for name in NAMES for count in IN_FLIGHT]
    compute = [median(one["compute_us"][str(batch)] for one in rounds) for batch in IN_FLIGHT]
    alone = [median(one["alone_us"][size] for one in rounds) for size in ("1", "32")]
    intro = " ".join(
        (
            f"`{record['command']}`: the load of the last section with 1 and with 8 in flight, {len(rounds)} rounds",
            f"of {found['seconds']:g} s, medians and range; {host_said(found['machine'])}. The floor computes in a",
            "thread of its own; a tier does, too, but for a lone sample of a short stage, on its event loop.",
        )
    )
    rest = " ".join(
        (
            f"Of that the stage's compute is {compute[0]:.0f} us (onnxruntime by itself, batch 1; {compute[1]:.0f} us",
            f"an image at batch 8). The tier's own Python takes {alone[0]:.0f} us a sample where nothing else runs,",
            f"and {alone[1]:.0f} us with 32 samples in a message. What it takes beyond that in a tier, it takes",
            "because the stage and gRPC have had the processor's caches in between.",
        )
    )
    return "\n\n".join((intro, table(headings, rows), rest))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    args = parser.parse_args(argv)
    found = measured(args.rounds, args.seconds)
    command = record.command(COMMAND, argv)
    print(markdown({"command": command, "found": found}))
    path = record.write(NAME, found, command=command, data={}, seeds=[SEED], packages=("grpcio",))
    print(f"\n{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
