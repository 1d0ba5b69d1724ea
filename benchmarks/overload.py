"""W4: a fog is offered twice what it can do, by a device tier that keeps to its credits and by a sender that does not.

python -m benchmarks.overload [--rounds N] [--seconds S]

    core A   load generator --Poisson, 100 ms each--> device tier (stage 0)
    core B                                               | fog tier (stage 1), 2 x its closed-loop rate
                                                         +-> answer of the fog, or at once the device's own, degraded

The closed-loop rate is that of the fog alone, asked directly at its boundary with 32 in flight. The network's second
stage costs many times the first: on an even split, a device that shares its core with the load generator could not hand
on twice what the fog takes. Exit code 1 where a bar is broken. As it is, it takes four minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import record
from benchmarks.devices import network
from benchmarks.devices.fleet import drive
from benchmarks.devices.loads import Closed, Open, Outcome, answer_code
from benchmarks.devices.processes import TierProcess, load_process, tier, watched_in_flight
from benchmarks.overload_figures import bars, markdown, of_overload, recovery_s
from benchmarks.serving.machine import machine
from benchmarks.serving.running import cores
from offramp.rpc import Tier

NAME, COMMAND = "overload", "benchmarks.overload"
DEADLINE_S, OVER = 0.1, 2.0
LIMIT = 256  # samples in flight that the fog takes: the tiers' default
_CONVOLUTIONS = 24
# All 32 are mostly answered at once, some five times a second: a shorter time would be off by a batch of a few.
_CLOSED_IN_FLIGHT, _CLOSED_S, _WARM_S = 32, 21.0, 1.0
_BEFORE_S, _AFTER_S, _CONNECTED_S = 3.0, 5.0, 30.0
_FOG = answer_code(Tier.FOG)

__all__ = ["markdown"]

Run = Callable[..., list[Outcome]]


def _wait_connected(run: Run, device: TierProcess) -> None:
    """Return once the fog answers through the device. Raises TimeoutError after 30 s."""
    until = time.monotonic() + _CONNECTED_S
    load = Closed(in_flight=1, seconds=0.3)
    while time.monotonic() < until:
        (found,) = run(drive, device.address, 1, network.images(), [load], {})
        if len(found.codes) and found.codes[-1] == _FOG:
            return
    raise TimeoutError(f"no answer of the fog within {_CONNECTED_S:g} s")


def _closed_hz(run: Run, fog: TierProcess) -> float:
    """Answers a second of the fog alone."""
    load = Closed(in_flight=_CLOSED_IN_FLIGHT, seconds=_CLOSED_S, warm_s=_WARM_S)
    (found,) = run(drive, fog.address, 1, network.codes(), [load], {})
    return found.window.results / found.window.wall_s


def _with_credits(
    run: Run, device: TierProcess, fog: TierProcess, overload: Open
) -> dict[str, Any]:
    """Through the device: one in flight, the overload, one in flight again."""
    loads = [
        Closed(in_flight=1, seconds=_BEFORE_S, warm_s=_WARM_S),
        overload,
        Closed(in_flight=1, seconds=_AFTER_S),
    ]
    meters = {"fog": fog.meter, "device": device.meter}
    with watched_in_flight(fog.metrics) as seen:
        before, found, after = run(drive, device.address, 1, network.images(), loads, meters)
    return {
        **of_overload(found, overload, seen),
        "recovery_s": recovery_s(before, after, found.began + overload.seconds),
    }


def _without_credits(run: Run, fog: TierProcess, overload: Open) -> dict[str, Any]:
    """Straight to the fog, by a sender that counts no credits."""
    meters = {"fog": fog.meter}
    with watched_in_flight(fog.metrics) as seen:
        (found,) = run(drive, fog.address, 1, network.codes(), [overload], meters)
    return of_overload(found, overload, seen)


def one_round(run: Run, fog_core: int, load_core: int, seconds: float, seed: int) -> dict[str, Any]:
    """Both tiers started anew, the fog's rate, then the two overloads."""
    bundle = network.split(_CONVOLUTIONS)
    with (
        tier("fog", bundle, fog_core, plan__last_stage=1, limits__in_flight=LIMIT) as fog,
        tier(
            "device", bundle, load_core, plan__last_stage=0, uplink__address=fog.address
        ) as device,
    ):
        _wait_connected(run, device)
        closed_hz = _closed_hz(run, fog)
        overload = Open(
            rates_hz=[OVER * closed_hz], seconds=seconds, seed=seed, deadline_s=DEADLINE_S
        )
        return {
            "closed_hz": closed_hz,
            "meter": fog.meter.source,
            "credits": _with_credits(run, device, fog, overload),
            "ignoring": _without_credits(run, fog, overload),
        }


def measured(rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """What `found` of the record is."""
    fog_core, load_core = cores()
    before = os.getloadavg()[0]
    os.sched_setaffinity(0, {load_core})  # scraping is not to take the fog's time
    made = []
    with load_process(load_core) as run:
        for number in range(rounds):
            made.append(one_round(run, fog_core, load_core, seconds, seed + number))
            shares = [made[-1][kind]["goodput_hz"] for kind in ("credits", "ignoring")]
            said = ", ".join(f"{share / made[-1]['closed_hz']:.3f}" for share in shares)
            print(f"round {number}: {made[-1]['closed_hz']:.0f}/s, goodput {said}", file=sys.stderr)
    return {
        "machine": machine(fog_core, load_core, before),
        "seconds": seconds,
        "deadline_s": DEADLINE_S,
        "over": OVER,
        "limit": LIMIT,
        "convolutions": _CONVOLUTIONS,
        "closed_in_flight": _CLOSED_IN_FLIGHT,
        "rounds": made,
        "bars": bars(made, LIMIT, DEADLINE_S),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each overload")
    parser.add_argument("--seed", type=int, default=network.SEED, help="of the first round")
    args = parser.parse_args(argv)
    found = measured(args.rounds, args.seconds, args.seed)
    return record.conclude(
        found,
        name=NAME,
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed + number for number in range(args.rounds)],
    )


if __name__ == "__main__":
    sys.exit(main())
