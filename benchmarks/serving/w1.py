"""W1: one tier. A whole network behind each server, one image a message, 8 in flight; then open loop; then calls of 32.

python -m benchmarks.serving.w1 [--systems NAME ...] [--rounds N] [--seconds S]

Rounds are interleaved, A-B-C..., every system started anew in each; the servers have one core and the load generator
another. Exit code 1 where a bar is broken. A run of all systems writes `benchmarks/results/serving_w1.json`, one of
`floor offramp` alone `serving_w1_floor.json`; every request's latency goes to runs/serving/w1_latencies.npz.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.serving.compute import bare
from benchmarks.serving.loads import Generator
from benchmarks.serving.machine import machine
from benchmarks.serving.network import FOLDER, SEED, Prepared, prepare
from benchmarks.serving.report import markdown
from benchmarks.serving.running import cores
from benchmarks.serving.summary import bars, summarise
from benchmarks.serving.systems import FLOOR, OURS, PEER_NAMES, SYSTEMS, System, choose
from benchmarks.serving.trial import SHARE_OFFERED, Bench, Trial, expected_labels

COMMAND, NAME = "benchmarks.serving.w1", "serving_w1"
_BATCHES, _BARE_S = (1, 8, 32), 0.7

__all__ = ["markdown"]


def bare_compute(prepared: Prepared, core: int) -> dict[str, dict[str, float]]:
    """By batch size, what onnxruntime alone spends on an image."""
    return {
        str(batch): bare([prepared.model], batch, _BARE_S, core)[0]._asdict() for batch in _BATCHES
    }


def one_round(
    bench: Bench, systems: Sequence[System], number: int, latencies_s: dict[str, Any]
) -> dict[str, Any]:
    """All systems in turn, the floor first, for it says what the open loop offers."""
    expected = expected_labels(bench.prepared)
    found: dict[str, Any] = {"bare": bare_compute(bench.prepared, bench.core)}
    offered_hz = None
    for system in systems:
        trial = Trial(bench, system, expected)
        found[system.name] = trial.run(offered_hz, seed=SEED + number)
        if system.name == FLOOR:
            offered_hz = SHARE_OFFERED * found[FLOOR]["closed"]["images_per_s"]
        for load, values in trial.latencies_s.items():
            latencies_s[f"{system.name}.{load}.{number}"] = values.astype(np.float32)
        closed = found[system.name]["closed"]
        said = f"{closed.get('cpu_ms', float('nan')):.3f} CPU-ms, wrong {closed['wrong']}"
        print(f"round {number}: {system.name}: {said}", file=sys.stderr, flush=True)
    return found


def measured(systems: Sequence[System], rounds: int, seconds: float) -> dict[str, Any]:
    """What `found` of the record is."""
    prepared = prepare()
    server_core, load_core = cores()
    latencies_s: dict[str, Any] = {}
    with Generator(load_core) as generator:
        bench = Bench(prepared, generator, server_core, seconds)
        before = os.getloadavg()[0]
        made = [one_round(bench, systems, k, latencies_s) for k in range(rounds)]
    np.savez_compressed(FOLDER / "w1_latencies.npz", **latencies_s)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "titles": {system.name: system.title for system in systems},
        "rounds": made,
        "summary": summarise(made),
        "bars": bars(made, PEER_NAMES),
    }


def kept_as(systems: Sequence[System]) -> str:
    """The name of the record of a run of these systems; "" for one that is not kept."""
    names = {system.name for system in systems}
    if names == set(SYSTEMS):
        return NAME
    return f"{NAME}_floor" if names == {FLOOR, *OURS} else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and perhaps write; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    args = parser.parse_args(argv)
    try:
        systems = choose(args.systems)
    except ValueError as exc:
        parser.error(str(exc))
    found = measured(systems, args.rounds, args.seconds)
    return record.conclude(
        found,
        name=kept_as(systems),
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[SEED],
        packages=("grpcio", "protobuf", "aiohttp"),
    )


if __name__ == "__main__":
    sys.exit(main())
