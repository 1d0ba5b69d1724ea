"""One pipeline in one round, and what no pipeline can be under in the same round.

start cloud, fog, device -> all reached -> closed loop, 8 in flight -> one in flight, latency by exit -> memory
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving.clients import Answer
from benchmarks.serving.compute import bare
from benchmarks.serving.echo import echo_ms
from benchmarks.serving.loads import Closed, Outcome, Target
from benchmarks.serving.measuring import Meter, pss_mb
from benchmarks.serving.network import LEAVING, POOL, Prepared
from benchmarks.serving.pipelines import TIERS, Pipeline
from benchmarks.serving.running import free_port, running
from benchmarks.serving.trial import IN_FLIGHT, Bench, figures
from offramp.bundle import load_bundle
from offramp.evaluation.reference import answer, run_stages

REACHING = tuple(sum(LEAVING[k:]) / POOL for k in range(len(LEAVING)))  # 1, 0.453, 0.203
_BARE_S = 0.5
_CONNECTED_S = 30.0


@dataclass(frozen=True, slots=True)
class Together:
    """Several servers' meters as one."""

    meters: tuple[Meter, ...]

    @property
    def source(self) -> str:
        """Where the figures come from, of each alike."""
        return self.meters[0].source

    def cpu_s(self) -> float:
        """Of all of them."""
        return sum(meter.cpu_s() for meter in self.meters)

    def process_ids(self) -> list[int]:
        """Of all of them."""
        return [one for meter in self.meters for one in meter.process_ids()]


def expected_answers(prepared: Prepared) -> list[Answer]:
    """Label and exit of each image of the pool, from the stages in this process.

    Raises ValueError where an exit is not the one that the pool was made for.
    """
    bundle = load_bundle(prepared.three)
    found = answer(bundle.manifest.policies[0], run_stages(bundle, prepared.images, batch=1).logits)
    if not np.array_equal(found.exits, prepared.exits):
        raise ValueError("exits: other ones than the pool's; delete runs/serving and make it again")
    return [Answer(*pair) for pair in zip(found.labels.tolist(), found.exits.tolist(), strict=True)]


def bound(prepared: Prepared, server_core: int, load_core: int) -> dict[str, Any]:
    """Bare compute of the stages, and bare gRPC calls of each hop's bytes, on the cores where they happen."""
    boundaries = load_bundle(prepared.three).manifest.network.boundaries
    sizes = [boundary.size_bytes for boundary in boundaries]
    models = [prepared.three / f"stage{k}.onnx" for k in range(len(sizes))]
    spent = bare(models, 1, _BARE_S, server_core)
    callers = [load_core, *[server_core] * (len(sizes) - 1)]
    echoes = echo_ms(list(zip(sizes, callers, strict=True)), server_core)
    latencies = np.cumsum([one.median_ms for one in spent]) + np.cumsum(echoes)
    return {
        "stages": [one._asdict() for one in spent],
        "hop_bytes": sizes,
        "echo_ms": [round(value, 4) for value in echoes],
        "compute_cpu_ms": sum(r * one.cpu_ms for r, one in zip(REACHING, spent, strict=True)),
        "latency_ms": [round(float(value), 4) for value in latencies],
    }


def by_exit(outcome: Outcome, exits: np.ndarray) -> list[dict[str, float]]:
    """Latencies in ms of the requests that left at each exit."""
    left_at = exits[outcome.numbers]
    rows = []
    for k in range(len(LEAVING)):
        values = outcome.latencies_s[left_at == k] * 1e3
        p50, p99 = np.percentile(values, (50, 99)) if len(values) else (np.nan, np.nan)
        rows.append({"requests": len(values), "p50": float(p50), "p99": float(p99)})
    return rows


def hop_share(pipeline: Pipeline) -> float:
    """Of the caller's CPU time, the part that is hops between tiers: where it makes them, requests but the first."""
    requests = sum(REACHING) if pipeline.asks_all else 1.0
    return (requests - 1.0) / requests


def run(bench: Bench, pipeline: Pipeline, expected: Sequence[Answer]) -> dict[str, Any]:
    """The figures of one round."""
    prepared, ports = bench.prepared, [free_port() for _ in TIERS]
    target = Target(pipeline.protocol, pipeline.address(ports), prepared.images, expected)
    deepest = int(np.flatnonzero(prepared.exits == len(LEAVING) - 1)[0])
    with ExitStack() as servers:
        running_tiers = [
            servers.enter_context(
                running(
                    pipeline.start(prepared, tier, ports),
                    bench.core,
                    f"w2-{pipeline.name}-{TIERS[tier]}",
                )
            )
            for tier in reversed(range(len(ports)))
        ]
        meter = Together(tuple(tier.meter for tier in running_tiers))
        bench.generator.first_answer(target, _CONNECTED_S, deepest)
        many = bench.generator.drive(
            target, Closed(in_flight=IN_FLIGHT, seconds=bench.seconds), meter
        )
        one = bench.generator.drive(target, Closed(in_flight=1, seconds=bench.seconds), meter)
        memory = {
            name: pss_mb(tier.meter)[0]
            for name, tier in zip(reversed(TIERS), running_tiers, strict=True)
        }
    found: dict[str, Any] = {
        "meter": meter.source,
        "many": figures(many),
        "one": figures(one),
        "pss_mb": memory,
    }
    found["one"]["by_exit"] = by_exit(one, prepared.exits)
    found["many"]["by_exit"] = by_exit(many, prepared.exits)
    if many.images:
        hops = found["many"]["client_cpu_ms"] * hop_share(pipeline)
        found["hops_by_caller_ms"], found["all_cpu_ms"] = hops, found["many"]["cpu_ms"] + hops
    return found
