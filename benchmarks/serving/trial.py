"""One system in one round: started, asked, weighed, ended.

start -> first answer -> warm-up -> closed loop, 8 in flight -> open loop at the offered rate -> memory
    -> calls of 32 -> memory again
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.serving.clients import Answer
from benchmarks.serving.loads import Closed, Generator, Load, Open, Outcome, Target
from benchmarks.serving.measuring import pss_mb
from benchmarks.serving.network import Prepared
from benchmarks.serving.running import Running, free_port, running
from benchmarks.serving.session import open_session
from benchmarks.serving.systems import System

IN_FLIGHT, BATCH, BATCHES_IN_FLIGHT = 8, 32, 2
SHARE_OFFERED = 0.8
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


class Bench(NamedTuple):
    """What all trials of a run share."""

    prepared: Prepared
    generator: Generator
    core: int
    seconds: float


def expected_labels(prepared: Prepared) -> list[Answer]:
    """What the whole network says of each image of the pool, one at a time."""
    session = open_session(prepared.model)
    name = session.get_inputs()[0].name
    logits = [session.run(None, {name: image[None]})[0] for image in prepared.images]
    return [Answer(int(row[0].argmax())) for row in logits]


def figures(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON: rates, CPU-ms an image, percentiles of latency in ms, and what went wrong."""
    found: dict[str, Any] = {
        "requests": len(outcome.latencies_s),
        "images": outcome.images,
        "wrong": outcome.wrong,
        "seconds": round(outcome.wall_s, 4),
    }
    if not outcome.images:
        return found
    others_s = outcome.machine_cpu_s - outcome.server_cpu_s - outcome.client_cpu_s
    values = np.percentile(outcome.latencies_s, PERCENTILES) * 1e3
    return found | {
        "images_per_s": round(outcome.images / outcome.wall_s, 2),
        "cpu_ms": round(outcome.server_cpu_s * 1e3 / outcome.images, 5),
        "client_cpu_ms": round(outcome.client_cpu_s * 1e3 / outcome.images, 5),
        "others": round(
            max(0.0, others_s) / outcome.wall_s, 3
        ),  # cores that other processes kept busy
        "latency_ms": {
            f"p{p:g}": round(float(v), 4) for p, v in zip(PERCENTILES, values, strict=True)
        },
    }


class Trial:
    """A system that runs, and what is asked of it."""

    def __init__(self, bench: Bench, system: System, expected: list[Answer]) -> None:
        self.bench, self.system, self._expected = bench, system, expected
        self.latencies_s: dict[str, Any] = {}

    def _load(self, name: str, load: Load, target: Target, server: Running) -> dict[str, Any]:
        outcome = self.bench.generator.drive(target, load, server.meter)
        self.latencies_s[name] = outcome.latencies_s
        return figures(outcome)

    def run(self, offered_hz: float | None, seed: int) -> dict[str, Any]:
        """The figures of one round.

        offered_hz: of the open loop; None: this system's own closed loop says it. A system for which that is more CPU
        time than its core has is not asked to: its queue would only grow.
        """
        bench, system = self.bench, self.system
        port = free_port()
        target = Target(system.protocol, f"127.0.0.1:{port}", bench.prepared.images, self._expected)
        with running(system.start(bench.prepared, port), bench.core, system.name) as server:
            answered = bench.generator.first_answer(target, system.within_s)
            found: dict[str, Any] = {
                "start_s": round(answered - server.began, 4),
                "meter": server.meter.source,
            }
            closed = Closed(in_flight=IN_FLIGHT, seconds=bench.seconds)
            found["closed"] = self._load("closed", closed, target, server)
            offered_hz = offered_hz or SHARE_OFFERED * found["closed"].get("images_per_s", 0.0)
            if offered_hz * found["closed"].get("cpu_ms", np.inf) < 1e3:
                load = Open(rate_hz=offered_hz, seconds=bench.seconds, seed=seed)
                found["open"] = self._load("open", load, target, server)
                found["open"]["offered_hz"] = round(offered_hz, 2)
            found["pss_mb"], found["processes"] = pss_mb(server.meter)
            if system.batches:
                calls = Closed(in_flight=BATCHES_IN_FLIGHT, seconds=bench.seconds, batch=BATCH)
                found["batch"] = self._load("batch", calls, target, server)
                found["pss_after_calls_mb"] = pss_mb(server.meter)[0]
        return found
