"""W2: three tiers, two early exits, and every input's exit known beforehand (55, 25 and 20 %).

python -m benchmarks.serving.w2 [--systems NAME ...] [--rounds N] [--seconds S]

All tiers share one core, the load generator has another. Framework CPU is what the tiers and the hops between them take
beyond the stages' own compute. Exit code 1 where a bar is broken; `benchmarks/results/serving_w2.json` is written by a
run of all systems.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import record
from benchmarks.serving import w2_trial
from benchmarks.serving.loads import Generator
from benchmarks.serving.machine import machine
from benchmarks.serving.network import SEED, prepare
from benchmarks.serving.pipelines import PIPELINES, Pipeline, choose
from benchmarks.serving.running import cores
from benchmarks.serving.trial import Bench
from benchmarks.serving.w2_report import bars, markdown

COMMAND, NAME = "benchmarks.serving.w2", "serving_w2"

__all__ = ["markdown"]


def measured(pipelines: Sequence[Pipeline], rounds: int, seconds: float) -> dict[str, Any]:
    """What `found` of the record is."""
    prepared = prepare()
    expected = w2_trial.expected_answers(prepared)
    server_core, load_core = cores()
    made = []
    with Generator(load_core) as generator:
        bench = Bench(prepared, generator, server_core, seconds)
        before = os.getloadavg()[0]
        for number in range(rounds):
            row: dict[str, Any] = {"bound": w2_trial.bound(prepared, server_core, load_core)}
            for pipeline in pipelines:
                row[pipeline.name] = found = w2_trial.run(bench, pipeline, expected)
                said = f"{found.get('all_cpu_ms', float('nan')):.3f} CPU-ms"
                wrong = {**found["many"]["wrong"], **found["one"]["wrong"]}
                print(f"round {number}: {pipeline.name}: {said}, wrong {wrong}", file=sys.stderr)
            made.append(row)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "titles": {pipeline.name: pipeline.title for pipeline in pipelines},
        "rounds": made,
        "bars": bars(made),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and perhaps write; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(PIPELINES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    args = parser.parse_args(argv)
    try:
        pipelines = choose(args.systems)
    except ValueError as exc:
        parser.error(str(exc))
    found = measured(pipelines, args.rounds, args.seconds)
    return record.conclude(
        found,
        name=NAME if len(pipelines) == len(PIPELINES) else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[SEED],
        packages=("grpcio", "protobuf", "aiohttp"),
    )


if __name__ == "__main__":
    sys.exit(main())
