"""W3: the pipelines of W2 with links between the tiers: three 5G profiles, and loopback.

python -m benchmarks.serving.w3 [--systems NAME ...] [--profiles NAME ...] [--seconds S]

    caller, device on one side --profile--> fog --wan-region--> cloud
    a caller that asks every tier itself has the same links on its way: one to the fog, both to the cloud

Every system gets the same Poisson arrivals and the same rows of the links' timelines, from the same seed. The links'
emulators have the load generator's core, the tiers the other one. Exit code 1 where an answer was wrong or missing. It
takes ten minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.serving import w2_trial
from benchmarks.serving.loads import Generator, Open, Target
from benchmarks.serving.machine import machine
from benchmarks.serving.network import SEED, Prepared, prepare
from benchmarks.serving.pipelines import PIPELINES, TIERS, Pipeline, choose
from benchmarks.serving.report import host_said
from benchmarks.serving.running import cores, free_port, running
from benchmarks.serving.trial import figures
from benchmarks.table import table
from offramp.evaluation.rehearsal import link_timelines
from offramp.links.engines.endpoints import Endpoint
from offramp.links.running import running_link
from offramp.links.timeline import Timeline

COMMAND, NAME = "benchmarks.serving.w3", "serving_w3"
PROFILES = ("none", "5g-nsa-mid", "5g-mmwave-drive", "lte")
CLOUD_PROFILE, ENGINE = "wan-region", "stream"
RATE_HZ, _STARTED_S = 30.0, 60.0
Links = Mapping[str, Timeline]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile runs on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Deployment:
    """Three tiers of one system, with links before the fog and the cloud where there are any."""

    def __init__(
        self, pipeline: Pipeline, prepared: Prepared, links: Links, link_core: int
    ) -> None:
        self._pipeline, self._prepared, self._links = pipeline, prepared, links
        self._link_core = link_core
        self.ports = [free_port() for _ in TIERS]

    def _behind(self, stack: ExitStack, tier: int, port: int) -> int:
        """The port at which the tier above is reached from this one: of a link to it, or its own."""
        timeline = self._links.get(TIERS[tier])
        if timeline is None:
            return port
        with on_core(self._link_core):
            link = stack.enter_context(running_link(timeline, ENGINE, Endpoint("127.0.0.1", port)))
        return link.address.port

    @contextmanager
    def running(self, core: int) -> Iterator[tuple[w2_trial.Together, str]]:
        """The tiers' meter, and the address that the caller is told."""
        with ExitStack() as stack:
            tiers = []
            for tier in reversed(range(len(TIERS))):
                seen = list(self.ports)
                if tier + 1 < len(TIERS) and not self._pipeline.asks_all:
                    seen[tier + 1] = self._behind(stack, tier, seen[tier + 1])
                command = self._pipeline.start(self._prepared, tier, seen)
                name = f"w3-{self._pipeline.name}-{TIERS[tier]}"
                tiers.append(stack.enter_context(running(command, core, name)))
            asked = list(self.ports)
            if self._pipeline.asks_all:
                asked[1] = self._behind(stack, 0, asked[1])
                asked[2] = self._behind(stack, 0, self._behind(stack, 1, asked[2]))
            meter = w2_trial.Together(tuple(one.meter for one in tiers))
            yield meter, self._pipeline.address(asked)


def measured(
    pipelines: Sequence[Pipeline], profiles: Sequence[str], seconds: float, seed: int
) -> dict[str, Any]:
    """What `found` of the record is."""
    prepared = prepare()
    expected = w2_trial.expected_answers(prepared)
    server_core, load_core = cores()
    before, made = os.getloadavg()[0], {}
    load = Open(rate_hz=RATE_HZ, seconds=seconds, seed=seed)
    with Generator(load_core) as generator:
        for profile in profiles:
            links = {} if profile == "none" else link_timelines(profile, CLOUD_PROFILE, seed=seed)
            made[profile] = {}
            for pipeline in pipelines:
                deployment = Deployment(pipeline, prepared, links, load_core)
                with deployment.running(server_core) as (meter, address):
                    target = Target(pipeline.protocol, address, prepared.images, expected)
                    found = _asked(generator, target, prepared.exits, meter, load)
                made[profile][pipeline.name] = found
                print(f"{profile}: {pipeline.name}: {found['by_exit']}", file=sys.stderr)
    return {
        "machine": machine(server_core, load_core, before),
        "seconds": seconds,
        "rate_hz": RATE_HZ,
        "engine": ENGINE,
        "fog_cloud": CLOUD_PROFILE,
        "titles": {pipeline.name: pipeline.title for pipeline in pipelines},
        "profiles": made,
    }


def _asked(
    generator: Generator,
    target: Target,
    exits: NDArray[np.int64],
    meter: w2_trial.Together,
    load: Open,
) -> dict[str, Any]:
    deepest = int(np.flatnonzero(exits == len(TIERS) - 1)[0])
    generator.first_answer(target, _STARTED_S, deepest)
    outcome = generator.drive(target, load, meter)
    return figures(outcome) | {"by_exit": w2_trial.by_exit(outcome, exits)}


def _rows(profile: str, systems: Mapping[str, Any], titles: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for name, found in systems.items():
        latency = found.get("latency_ms", {})
        cells = [" / ".join(f"{one[p]:.0f}" for one in found["by_exit"]) for p in ("p50", "p99")]
        wrong = sum(found["wrong"].values())
        whole = [f"{latency[p]:.0f}" if p in latency else "-" for p in ("p50", "p99")]
        rows.append([profile, titles[name], *whole, *cells, str(wrong)])
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    headings = (
        "link",
        "",
        "p50, ms",
        "p99, ms",
        "p50 by exit, ms",
        "p99 by exit, ms",
        "wrong or missing",
    )
    rows = [
        row
        for profile, systems in found["profiles"].items()
        for row in _rows(profile, systems, found["titles"])
    ]
    intro = " ".join(
        (
            f"`{record['command']}`: the pipelines of W2 with the named link between device and fog and",
            f"`{found['fog_cloud']}` between fog and cloud, engine {found['engine']} (`none`: loopback). Poisson",
            f"arrivals of {found['rate_hz']:g} images a second for {found['seconds']:g} s, the same ones and the same",
            f"rows of the links for every system; {host_said(found['machine'])}, which the links' emulators share. A",
            "caller that chains the tiers itself sits beside the device and has a link of its own to the fog and one",
            "over both to the cloud.",
        )
    )
    return "\n\n".join((intro, table(headings, rows)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and perhaps write; 0 where every answer was right."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(PIPELINES), metavar="NAME")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    try:
        pipelines = choose(args.systems)
    except ValueError as exc:
        parser.error(str(exc))
    found = measured(pipelines, args.profiles, args.seconds, args.seed)
    record.conclude(
        found,
        name=NAME if len(pipelines) == len(PIPELINES) else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed],
        packages=("grpcio", "protobuf", "aiohttp"),
    )
    systems = [one for made in found["profiles"].values() for one in made.values()]
    return 1 if any(one["wrong"] for one in systems) else 0


if __name__ == "__main__":
    sys.exit(main())
