"""What a request costs one tier as devices and requests in flight become more, and what an idle device costs in memory.

python -m benchmarks.growth [--rounds N] [--seconds S]

    devices     1, 16, 256 connections with an origin each, one request a message, the same total rate: CPU-ms a request
                and as many in a closed loop with 256 in flight in all, which decides no bar: a single device has many
                results in a message there
    in flight   10 to 10,000 from one device, closed loop
    memory      PSS with 0, 256 and 1,024 devices that are connected, have asked once and say nothing

The network is one small matrix, so that what is measured is the framework and nothing hides it. Exit code 1 where a bar
is broken. As it is, it takes three and a half minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import record
from benchmarks.devices import network
from benchmarks.devices.fleet import Fleet, drive, in_loop
from benchmarks.devices.loads import Closed, Load, Open, Outcome
from benchmarks.devices.processes import TierProcess, allow_files, load_process, tier
from benchmarks.devices.stream import Form
from benchmarks.growth_figures import bars, markdown
from benchmarks.serving.machine import machine
from benchmarks.serving.measuring import Meter, pss_mb
from benchmarks.serving.running import cores

NAME, COMMAND = "growth", "benchmarks.growth"
DEVICES = (1, 16, 256)
IN_FLIGHT = (10, 100, 1_000, 10_000)
IDLE = (0, 256, 1_024)
LIMIT = 20_000  # samples in flight that the tier takes: above every load here
LIMITS = {  # all devices come from one host, and at once
    "limits__in_flight": LIMIT,
    "limits__streams_per_peer": 2_048,
    "limits__streams_hz": 10_000,
}
_ALL_IN_FLIGHT = 256  # of the closed loop over several devices
_SHARE = 0.25  # of what 256 devices with one in flight each come to, offered as the total rate
_DEADLINE_S, _WARM_S, _IDLE_S = 60.0, 1.0, 2.0
_SLOWEST_HZ = 2_000

__all__ = ["markdown"]

Run = Callable[..., Any]


def _closed(in_flight: int, seconds: float) -> Closed:
    """The window begins when the first requests have come back, which takes so many a while."""
    first_s = in_flight / _SLOWEST_HZ
    return Closed(
        in_flight=in_flight,
        seconds=seconds + first_s,
        deadline_s=_DEADLINE_S,
        warm_s=_WARM_S + first_s,
    )


def figures(outcome: Outcome) -> dict[str, Any]:
    """The tier's CPU-ms a request, and what else the window says. Raises RuntimeError where a request has no answer."""
    window = outcome.window
    if not outcome.answered.all() or not window.results:
        raise RuntimeError(f"{int((~outcome.answered).sum())} requests without an answer")
    return {
        "cpu_ms": window.tiers_cpu_s["tier"] * 1e3 / window.results,
        "load_cpu_ms": window.load_cpu_s * 1e3 / window.results,
        "a_second": window.results / window.wall_s,
        "core_share": window.tiers_cpu_s["tier"] / window.wall_s,
        "in_a_message_up": window.results / max(1, window.messages_up),
        "in_a_message_down": window.results / max(1, window.messages_down),
        "late_ms": outcome.late_s * 1e3,
    }


def _one(run: Run, server: TierProcess, devices: int, load: Load) -> dict[str, Any]:
    """Where the rate is given, each request is a message, for it is to cost the same however many devices there are."""
    form = network.numbers(together=1) if isinstance(load, Open) else network.numbers()
    meters = {"tier": server.meter}
    (found,) = run(drive, server.address, devices, form, [load], meters)
    return figures(found)


def rate_hz(run: Run, core: int, seconds: float) -> float:
    """The total rate to offer, in whole hundreds a second."""
    with tier("device", network.tiny(), core, **LIMITS) as server:
        found = _one(run, server, DEVICES[-1], _closed(1, seconds))
    return max(100.0, round(_SHARE * float(found["a_second"]), -2))


def one_round(run: Run, core: int, seconds: float, total_hz: float, number: int) -> dict[str, Any]:
    """One tier, all loads on it; in every second round from the last to the first."""
    cases: list[tuple[str, int, int, Load]] = []
    for devices in DEVICES:
        share = [total_hz / devices] * devices
        offered = Open(
            rates_hz=share,
            seconds=seconds,
            seed=network.SEED + number,
            deadline_s=_DEADLINE_S,
            warm_s=_WARM_S,
        )
        each = _ALL_IN_FLIGHT // devices
        cases.append(("devices", devices, devices, offered))
        cases.append(("devices_closed", devices, devices, _closed(each, seconds)))
    cases += [("in_flight", count, 1, _closed(count, seconds)) for count in IN_FLIGHT]
    found: dict[str, Any] = {"devices": {}, "devices_closed": {}, "in_flight": {}}
    with tier("device", network.tiny(), core, **LIMITS) as server:
        _one(run, server, 1, _closed(_ALL_IN_FLIGHT, seconds))  # warm-up
        for kind, size, devices, load in cases if number % 2 == 0 else reversed(cases):
            found[kind][str(size)] = _one(run, server, devices, load)
        found["meter"] = server.meter.source
    return found


def idle_memory(address: str, form: Form, meter: Meter) -> list[float]:
    """PSS in MB with so many idle devices beside one that has been busy."""

    async def grown() -> list[float]:
        found = []
        async with Fleet(address, 1, form) as fleet:
            await fleet.drive(_closed(_ALL_IN_FLIGHT, 2 * _WARM_S), {})
            for devices in IDLE:
                await fleet.grow(1 + devices)
                await fleet.drive(Closed(in_flight=1, seconds=0.0), {})
                await asyncio.sleep(_IDLE_S)
                found.append(pss_mb(meter)[0])
        return found

    return in_loop(grown())


def _idle(run: Run, core: int) -> dict[str, float]:
    with tier("device", network.tiny(), core, **LIMITS) as server:
        found = run(idle_memory, server.address, network.numbers(), server.meter)
    return {str(devices): value for devices, value in zip(IDLE, found, strict=True)}


def measured(rounds: int, seconds: float) -> dict[str, Any]:
    """What `found` of the record is."""
    allow_files()
    server_core, load_core = cores()
    before = os.getloadavg()[0]
    made = []
    with load_process(load_core) as run:
        total_hz = rate_hz(run, server_core, seconds)
        for number in range(rounds):
            found = one_round(run, server_core, seconds, total_hz, number)
            found["idle_pss_mb"] = _idle(run, server_core)
            made.append(found)
            said = {
                kind: {size: round(one["cpu_ms"], 3) for size, one in found[kind].items()}
                for kind in ("devices", "devices_closed", "in_flight")
            }
            print(f"round {number}: {said}, {found['idle_pss_mb']} MB", file=sys.stderr)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "total_hz": total_hz,
        "all_in_flight": _ALL_IN_FLIGHT,
        "rounds": made,
        "bars": bars(made),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load")
    args = parser.parse_args(argv)
    if args.seconds <= _WARM_S:
        parser.error(f"--seconds: {args.seconds:g}, but the first {_WARM_S:g} are not measured")
    found = measured(args.rounds, args.seconds)
    return record.conclude(
        found,
        name=NAME,
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[network.SEED + number for number in range(args.rounds)],
    )


if __name__ == "__main__":
    sys.exit(main())
