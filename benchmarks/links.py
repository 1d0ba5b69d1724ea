"""Do the engines do what timelines say, and do they agree with each other?

    python -m benchmarks.links [--profiles 5g-nsa-mid wan-region ...] [--engines packet stream]

Every profile through `offramp link validate`; goodput at the rates up to which the engines are held; and warm gRPC
calls of three sizes over both engines. For a machine with nothing else to do. Writes benchmarks/results/links.json;
exits with 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from benchmarks import record
from offramp.links import probing
from offramp.links.compiling import compile_profile
from offramp.links.engines.choosing import choose
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.frames import payload_share, wire_bytes
from offramp.links.profile import load_profile
from offramp.links.running import running_link
from offramp.links.timeline import Direction, State, Timeline
from offramp.links.validation import checks
from offramp.links.validation.session import validate

_PROFILES = ("lte", "5g-nsa-mid", "5g-mmwave-drive", "wan-region")
_HELD_TO_MBIT = {"packet": 300.0, "stream": 1000.0}
_SIZES = {"64 B": 64, "150 KB": 150_000, "4 MB": 4_000_000}
_MBIT, _ONE_WAY_MS = 50.0, 15.0
_WARM_CALLS, _CALLS = 5, 20
_AGREE = 0.05
_METHOD = "/offramp.benchmarks.Links/Take"


def main() -> int:
    """Measure, write, and say whether every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", nargs="+", default=_PROFILES)
    parser.add_argument("--engines", nargs="+", default=["packet", "stream"])
    parser.add_argument("--seconds", type=float, default=40.0)
    arguments = parser.parse_args()
    engines = [choose(name) for name in arguments.engines]
    found: dict[str, Any] = {"validated": [], "rates": [], "calls": {}}
    for engine in engines:
        found["rates"] += _rates(engine)
        found["calls"][engine] = _calls(engine)
        for name in arguments.profiles:
            timeline = compile_profile(
                load_profile(name), seed=0, duration_s=arguments.seconds + 20
            )
            report = validate(
                timeline, engine, seconds=arguments.seconds, probes=2000, tell=lambda _: None
            )
            found["validated"].append(report.as_json())
            print(f"{name} over {engine}: {'pass' if report.passed else 'FAIL'}", file=sys.stderr)
    found["agreement"] = _agreement(found["calls"])
    record.write(
        "links",
        found,
        command=record.command("benchmarks.links"),
        data={},
        seeds=[0],
        packages=["grpcio"],
    )
    return 0 if _holds(found) else 1


def _holds(found: dict[str, Any]) -> bool:
    judged = (*found["validated"], *found["rates"], *found["agreement"])
    return all(entry["passed"] for entry in judged)


def _steady(mbit: float, queue_bytes: int) -> Timeline:
    way = Direction(
        np.array([_ONE_WAY_MS]), np.array([mbit]), np.array([State.OPEN], np.uint8), queue_bytes
    )
    return Timeline(f"steady {mbit:g} Mbit/s", "estimate", 0, 0.1, way, way)


def _rates(engine: str) -> list[dict[str, Any]]:
    """Goodput both ways at the rate that the engine is held to, with a queue of four round trips, as in validation.

    With one or two, BBR's overshoot is dropped, and what its recovery costs is measured in place of the engine.
    """
    mbit = _HELD_TO_MBIT.get(engine, 300.0)
    peer = probing.Peer()
    try:
        timeline = _steady(mbit, int(mbit * 125 * 8 * _ONE_WAY_MS))
        with running_link(timeline, engine, peer.endpoint) as link:
            share = payload_share(link.status["mtu"])
            return [
                {
                    "engine": engine,
                    **checks.goodput(way, mbit, share, measure(link.address, 5.0)).as_json(),
                }
                for way, measure in (("up", probing.bulk_up_mbit), ("down", probing.bulk_down_mbit))
            ]
    finally:
        peer.close()


@contextmanager
def _taking() -> Iterator[Endpoint]:
    """A gRPC server whose one method takes bytes and answers with 64."""
    server = grpc.server(
        ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 8_000_000)]
    )
    take = grpc.unary_unary_rpc_method_handler(lambda _request, _context: bytes(64))
    service, method = _METHOD[1:].split("/")
    server.add_registered_method_handlers(service, {method: take})
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: take}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Endpoint("127.0.0.1", port)
    finally:
        server.stop(None).wait()


def _calls(engine: str) -> dict[str, dict[str, float]]:
    """Median ms of warm calls by size, and what the link alone would take."""
    found = {}
    with (
        _taking() as target,
        running_link(_steady(_MBIT, 1_000_000), engine, target) as link,
        grpc.insecure_channel(str(link.address)) as channel,
    ):
        take = channel.unary_unary(_METHOD)
        mtu = link.status["mtu"]
        for name, size in _SIZES.items():
            times = []
            for _ in range(_WARM_CALLS + _CALLS):
                start_s = time.monotonic()
                take(bytes(size))
                times.append(time.monotonic() - start_s)
            theory = 2 * _ONE_WAY_MS + wire_bytes(size, mtu) * 8e-3 / _MBIT
            median = 1e3 * statistics.median(times[_WARM_CALLS:])
            found[name] = {"median_ms": median, "link_alone_ms": theory}
    return found


def _agreement(calls: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """How far apart the engines' medians are, of the smaller, for each size."""
    if len(calls) < 2:
        return []
    rows = []
    for size in _SIZES:
        medians = [found[size]["median_ms"] for found in calls.values()]
        apart = max(medians) / min(medians) - 1
        rows.append({"call": size, "apart": apart, "bound": _AGREE, "passed": apart <= _AGREE})
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md: each engine by quantity, goodput at its bar, and the agreement of calls."""
    found = record["found"]
    lines = [f"`{record['command']}`", ""]
    lines += [
        "| engine, profile | quantity | expected | measured | from | to | |",
        "|---|---|---|---|---|---|---|",
    ]
    for report in found["validated"]:
        where = f"{report['engine']}, {report['profile']}"
        if report["clipped"]:
            where += (
                f" (clipped to {report['limit_mbit']:g} Mbit/s: {', '.join(report['clipped'])})"
            )
        lines += [_row(where, check) for check in report["checks"]]
    lines += [_row(check["engine"], check) for check in found["rates"]]
    lines += ["", "Warm gRPC calls at 50 Mbit/s and 15 ms each way, median in ms:", ""]
    engines = list(found["calls"])
    lines += [
        f"| call | link alone | {' | '.join(engines)} | apart |",
        "|---" * (len(engines) + 3) + "|",
    ]
    apart = {row["call"]: f"{100 * row['apart']:.1f} %" for row in found["agreement"]}
    for size in _SIZES:
        medians = [f"{found['calls'][engine][size]['median_ms']:.1f}" for engine in engines]
        alone = found["calls"][engines[0]][size]["link_alone_ms"]
        lines.append(f"| {size} | {alone:.1f} | {' | '.join(medians)} | {apart.get(size, '')} |")
    control = sorted({f"{r['engine']}: {r['congestion']}" for r in found["validated"]})
    lines += [
        "",
        f"Congestion control of the emulated segment: {', '.join(control) or 'not known'}.",
    ]
    skipped = sorted(
        {
            f"{r['engine']}: {name} ({why})"
            for r in found["validated"]
            for name, why in r["skipped"].items()
        }
    )
    if skipped:
        lines.append(f"Not measured: {'; '.join(skipped)}.")
    return "\n".join(lines) + "\n"


def _row(where: str, check: dict[str, Any]) -> str:
    figures = " | ".join(f"{check[name]:.4g}" for name in ("expected", "measured", "low", "high"))
    verdict = "pass" if check["passed"] else "**fail**"
    return f"| {where} | {check['quantity']}, {check['unit']} | {figures} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main())
