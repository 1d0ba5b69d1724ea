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

import numpy as np

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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 where every tier is under both bars."""
    parser = argparse.ArgumentParser("python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    manifest = load_bundle(args.bundle).manifest
    times: dict[Tier, list[float]] = {tier: [] for tier in Tier}
    for _ in range(args.rounds):
        for tier in Tier:
            times[tier].append(ready_s(tier, args.bundle))
    images = np.random.default_rng(1).integers(0, 256, (1000, *manifest.image_shape()), np.uint8)
    with Deployment(args.bundle, {"device": 0, "fog": 1, "cloud": 2}) as tiers:
        with Client(tiers.device, policy="final-exit") as client:
            list(client.infer_many(list(images)))
        resident = {tier: resident_mb(tiers.tiers[str(tier)].process.pid) for tier in Tier}
    holds = True
    for tier in Tier:
        middle, low, high = median(times[tier]), min(times[tier]), max(times[tier])
        holds &= middle < READY_BAR_S and resident[tier] < RESIDENT_BAR_MB
        print(
            f"{tier!s:<7} ready in {middle:.2f} s [{low:.2f} - {high:.2f}], "
            f"{resident[tier]:.0f} MB resident after 1,000 images"
        )
    print(f"bars: {READY_BAR_S:g} s, {RESIDENT_BAR_MB:g} MB: {'ok' if holds else 'BROKEN'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
