"""Every fault on the compose deployment under load, one row each.

python -m benchmarks.chaos [--only TEXT ...] [--seed N] [--duration SECONDS] [--json FILE]

Needs a Docker engine with Compose v2; where the machine has libfaketime, the tiers' clocks are set too. Exit code 1
where a bar is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.chaos.deployment import ROOT, Deployment, deployed
from benchmarks.chaos.faults import Fault, faults
from benchmarks.chaos.load import Load, loading
from benchmarks.chaos.rows import Times, bars, markdown, row
from offramp.data import fashion_mnist

NAME, COMMAND = "chaos", "benchmarks.chaos"
RATE_HZ, DEADLINE_S = 50.0, 1.0
_QUIET_S = 5.0
_CALM_S = 2.0  # without a degraded answer it is as before
_PATIENCE_S = 20.0
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def broken(deployment: Deployment, fault: Fault, load: Load, seconds: float) -> dict[str, Any]:
    """One fault: the quiet before it, itself, and the way back; its row."""
    quiet = time.monotonic()
    time.sleep(_QUIET_S)
    began = time.monotonic()
    fault.begin(deployment)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    opened = deployment.breaker_opened("fog" if fault.tier == "cloud" else "device", began)
    fault.end(deployment)
    ended = time.monotonic()
    while time.monotonic() < ended + _PATIENCE_S:
        time.sleep(0.2)
        if not any(one.reason or one.error for one in _latest(load)):
            break
    watched = time.monotonic() - DEADLINE_S
    times = Times(quiet, began, ended, watched, opened)
    return row(fault, load.between(quiet, watched), times, DEADLINE_S)


def _latest(load: Load) -> list[Any]:
    now = time.monotonic()
    return load.between(now - _CALM_S - DEADLINE_S, now)


def _rows(some: Sequence[Fault], images: Any, seconds: float, needs: str) -> list[dict[str, Any]]:
    """One deployment, broken in these ways one after the other."""
    made = []
    with (
        deployed(
            faketime=FAKETIME if needs == "clock" else None, has_store=needs == "store"
        ) as deployment,
        loading(deployment.device, images, RATE_HZ, DEADLINE_S) as load,
    ):
        for fault in some:
            made.append(broken(deployment, fault, load, seconds))
            print(json.dumps(made[-1]), file=sys.stderr)
    return made


def measured(only: Sequence[str], seed: int, seconds: float) -> dict[str, Any]:
    """What `found` of the record is."""
    images = fashion_mnist.load("test", ROOT / "examples" / "fashion_mnist").images
    images = images.reshape(-1, 28, 28, 1)
    chosen = [f for f in faults(seed) if not only or any(text in f.name for text in only)]
    made, left_out = [], []
    for needs in ("", "store", "clock"):
        some = [fault for fault in chosen if fault.needs == needs]
        if needs == "clock" and FAKETIME is None:
            left_out = [fault.name for fault in some]
        elif some:
            made += _rows(some, images, seconds, needs)
    return {
        "rate_hz": RATE_HZ,
        "deadline_s": DEADLINE_S,
        "quiet_s": _QUIET_S,
        "fault_s": seconds,
        "rows": made,
        "left_out": left_out,
        "bars": bars(made, DEADLINE_S),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Break, mend, print and perhaps write; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="faults so named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=10.0, help="of each fault, in seconds")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    args = parser.parse_args(argv)
    found = measured(args.only, args.seed, args.duration)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return record.conclude(
        found,
        name="" if args.only else NAME,
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed],
    )


if __name__ == "__main__":
    sys.exit(main())
