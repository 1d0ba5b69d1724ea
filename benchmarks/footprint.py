"""How soon each tier is ready, and what it then holds in memory.

python -m benchmarks.footprint [--bundle FOLDER] [--rounds N]

Real processes, started in turn; ready is the line that a tier prints once it serves. Median and range of the rounds;
resident memory after 1,000 images have gone through the three of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.table import table, verdict
from offramp import Client
from offramp.bundle import load_bundle
from offramp.errors import InvalidInput
from offramp.evaluation.deployment import Deployment, start_tier
from offramp.rpc import Tier

BUNDLE = Path("examples/fashion_mnist/bundle")
READY_BAR_S, RESIDENT_BAR_MB = 2.0, 120.0


def ready_s(tier: Tier, bundle: Path) -> float:
    """Seconds from starting a tier's process to its ready line."""
    began = time.monotonic()
    running = start_tier(str(tier), bundle, {})
    took = time.monotonic() - began
    running.process.terminate()
    running.process.wait(15)
    if running.process.stdout:
        running.process.stdout.close()
    return took


def resident_mb(process_id: int) -> float:
    """VmRSS of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise InvalidInput("process", f"{process_id} tells no VmRSS")


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rows = [
        (
            name,
            f"{tier['ready_s']['median']:.2f} [{tier['ready_s']['low']:.2f} - {tier['ready_s']['high']:.2f}]",
            f"{tier['resident_mb']:.0f}",
        )
        for name, tier in found["tiers"].items()
    ]
    bars = found["bars"]
    said = (
        f"`{record['command']}`: real processes, started in turn; ready is the line that a tier prints once it serves. "
        f"Bars: {bars['ready_s']:g} s and {bars['resident_mb']:g} MB, {verdict(found['holds'])}."
    )
    ready = f"ready, median of {found['rounds']} [range], s"
    return f"{said}\n\n{table(('tier', ready, 'resident after 1,000 images, MB'), rows)}"


def measured(bundle: Path, rounds: int) -> dict[str, Any]:
    """Of each tier: seconds until it is ready, and MB resident after 1,000 images through all three."""
    takes = load_bundle(bundle).manifest.network.takes
    times: dict[Tier, list[float]] = {tier: [] for tier in Tier}
    for _ in range(rounds):
        for tier in Tier:
            times[tier].append(ready_s(tier, bundle))
    images = np.random.default_rng(1).integers(0, 256, (1000, *takes.shape), np.uint8)
    with Deployment(bundle, {"device": 0, "fog": 1, "cloud": 2}) as tiers:
        with Client(tiers.device, policy="final-exit") as client:
            list(client.infer_many(list(images)))
        resident = {tier: resident_mb(tiers.tiers[str(tier)].process.pid) for tier in Tier}
    return {
        str(tier): {
            "ready_s": {"median": median(took), "low": min(took), "high": max(took)},
            "resident_mb": resident[tier],
        }
        for tier, took in times.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where every tier is under both bars."""
    parser = argparse.ArgumentParser("python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    tiers = measured(args.bundle, args.rounds)
    holds = all(
        tier["ready_s"]["median"] < READY_BAR_S and tier["resident_mb"] < RESIDENT_BAR_MB
        for tier in tiers.values()
    )
    found = {
        "tiers": tiers,
        "rounds": args.rounds,
        "bars": {"ready_s": READY_BAR_S, "resident_mb": RESIDENT_BAR_MB},
        "holds": holds,
    }
    command = "python -m benchmarks.footprint"
    print(markdown({"command": command, "found": found}))
    if args.bundle == BUNDLE:
        path = record.write("footprint", found, command=command, data={})
        print(f"\n{path} written")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
