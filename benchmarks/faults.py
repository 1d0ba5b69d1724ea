"""A hundred thousand requests while fog, cloud and the link between device and fog fail at random, seeded.

python -m benchmarks.faults [--requests N] [--seed N]

    device --link, now and then cut--> fog --> cloud      killed, stopped, silenced every few seconds

Every request must have exactly one final answer, from the one network that all tiers hold, with the label that its exit
gives; and the counters of the tiers must agree with it and with each other. Exit code 1 where one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from benchmarks import record
from benchmarks.chaos.asking import Asking, Results
from benchmarks.chaos.processes import TierRun, running_tiers, total
from benchmarks.table import table, verdict
from offramp.bundle import load_bundle
from offramp.data import fashion_mnist
from offramp.evaluation.reference import run_stages
from offramp.exits.confidence import labels_of
from offramp.links.compiling import compile_profile
from offramp.links.engines.endpoints import parse_endpoint
from offramp.links.profile import load_profile
from offramp.links.running import RunningLink, running_link

NAME, COMMAND = "faults", "benchmarks.faults"
EXAMPLE = Path("examples/fashion_mnist")
_PROFILE = "metro-fibre"
_KINDS = ("killed", "stopped", "silent", "link cut")
_CALM = 1_000  # requests without faults, after which all counters must agree


class Trouble(threading.Thread):
    """One fault after another on fog, cloud or link until it is told to stop; then all is mended."""

    def __init__(self, fog: TierRun, cloud: TierRun, link: RunningLink, seed: int) -> None:
        super().__init__(name="trouble")
        self._tiers, self._link, self._chance = (fog, cloud), link, random.Random(seed)  # noqa: S311
        self._stopped = threading.Event()
        self.done: Counter[str] = Counter()
        self.failed: Exception | None = None

    def run(self) -> None:
        """Break and mend."""
        try:
            while not self._stopped.wait(self._chance.uniform(0.5, 4.0)):
                kind, tier = self._chance.choice(_KINDS), self._chance.choice(self._tiers)
                self._break(kind, tier, self._chance.uniform(0.2, 3.0))
                self.done[kind if kind == "link cut" else f"{tier.name} {kind}"] += 1
        except Exception as exc:
            self.failed = exc

    def _break(self, kind: str, tier: TierRun, seconds: float) -> None:
        if kind == "link cut":
            self._link.cut(seconds)
            time.sleep(seconds)
        elif kind == "silent":
            tier.send(signal.SIGSTOP)
            time.sleep(seconds)
            tier.send(signal.SIGCONT)
        else:
            tier.send(signal.SIGKILL if kind == "killed" else signal.SIGTERM)
            tier.wait()
            time.sleep(seconds)
            tier.start()

    def stop(self) -> None:
        """Break nothing more. Raises what went wrong in the thread."""
        self._stopped.set()
        self.join()
        if self.failed is not None:
            raise self.failed


@contextmanager
def troubled(fog: TierRun, cloud: TierRun, link: RunningLink, seed: int) -> Iterator[Trouble]:
    """Faults meanwhile."""
    trouble = Trouble(fog, cloud, link, seed)
    trouble.start()
    try:
        yield trouble
    finally:
        trouble.stop()


def said_of(results: Results) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        "requests": len(results.finals),
        "without_result": int((results.finals == 0).sum()),
        "with_more_than_one": int((results.finals > 1).sum()),
        "outcomes": dict(results.outcomes),
        "answers": {f"{tier}, exit {k}": n for (tier, k), n in sorted(results.exits.items())},
        "degraded": {f"{tier}, {why}": n for (tier, why), n in sorted(results.degraded.items())},
        "wrong": dict(results.wrong),
    }


def of_the_device(results: Results, device: TierRun) -> list[tuple[str, float, float]]:
    """(what, counted by the device, seen by its callers), which must be equal: it was never ended."""
    counted = device.counted()
    rows = [("requests", total(counted, "offramp_requests_total"), float(results.finals.sum()))]
    for outcome in ("answered", "degraded"):
        found = total(counted, "offramp_requests_total", f'outcome="{outcome}"')
        rows.append((outcome, found, float(results.outcomes[outcome])))
    given = sum(n for (tier, _), n in results.exits.items() if tier == "device")
    rows.append(("answers of its own", total(counted, "offramp_exits_total"), float(given)))
    for reason in sorted({why for tier, why in results.degraded if tier == "device"}):
        found = total(counted, "offramp_degraded_total", f'reason="{reason}"')
        rows.append((f"its own, {reason}", found, float(results.degraded["device", reason])))
    rows.append(("in flight", total(counted, "offramp_in_flight"), 0.0))
    return rows


def between_tiers(
    tiers: Sequence[TierRun], results: Results, before: Sequence[Any]
) -> list[tuple[str, float, float]]:
    """(what, one side, the other) over requests during which nothing was broken."""
    after = [tier.counted() for tier in tiers]

    def grown(index: int, name: str) -> float:
        return total(after[index], name) - total(before[index], name)

    rows = []
    for lower, upper in ((0, 1), (1, 2)):
        names = tiers[lower].name, tiers[upper].name
        sent, taken = (
            grown(lower, "offramp_hop_seconds_count"),
            grown(upper, "offramp_requests_total"),
        )
        rows.append((f"{names[0]} handed on, {names[1]} took", sent, taken))
    for index, tier in enumerate(tiers):
        given = sum(n for (name, _), n in results.exits.items() if name == tier.name)
        rows.append((f"answers of the {tier.name}", grown(index, "offramp_exits_total"), given))
    return rows


def expected(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(E, images): the label that each exit gives."""
    reference = run_stages(load_bundle(EXAMPLE / "bundle"), images, batch=128)
    return np.stack([labels_of(logits) for logits in reference.logits])


def measured(requests: int, seed: int) -> dict[str, Any]:
    """What `found` of the record is."""
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)[:512]
    labels = expected(images)
    timeline = compile_profile(load_profile(_PROFILE), seed=seed, duration_s=60.0)
    links: list[RunningLink] = []
    began = time.monotonic()
    with ExitStack() as stack:

        def linked(fog: str) -> str:
            link = running_link(timeline, "stream", parse_endpoint("target", fog))
            links.append(stack.enter_context(link))
            return str(links[0].address)

        tiers = stack.enter_context(running_tiers(EXAMPLE / "bundle", linked, log_level="error"))
        device, fog, cloud = tiers
        runner = stack.enter_context(asyncio.Runner())

        def asked(count: int, progress: Callable[[int], None] = lambda _: None) -> Results:
            asking = Asking(device.listen, images, labels, count=count)
            return runner.run(asking.run(progress))

        with troubled(fog, cloud, links[0], seed) as trouble, Live(requests) as live:
            results = asked(requests, live)
        counted = of_the_device(results, device)
        _until_whole(asked)
        before = [tier.counted() for tier in tiers]
        calm = asked(_CALM)
        agree = between_tiers(tiers, calm, before)
    found = {
        "seconds": time.monotonic() - began,
        "faults": dict(sorted(trouble.done.items())),
        "results": said_of(results),
        "calm": said_of(calm),
        "device": counted,
        "between": agree,
    }
    return {**found, "bars": bars(found)}


def _until_whole(asked: Callable[[int], Results]) -> None:
    """Return once nothing is degraded any more. Raises TimeoutError."""
    until = time.monotonic() + 30
    while asked(200).outcomes["degraded"]:
        if time.monotonic() > until:
            raise TimeoutError("answers are still degraded 30 s after the last fault")


class Live:
    """A bar that fills up on standard error; call it with the count so far."""

    def __init__(self, requests: int) -> None:
        columns = (
            "{task.completed:>7,} of {task.total:,} requests",
            BarColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=requests)

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, done: int) -> None:
        """So many were sent."""
        if done % 100 == 0:
            self._progress.update(self._task, completed=done)


def bars(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold."""
    both = (found["results"], found["calm"])
    rows = (
        ("requests without a final answer", sum(one["without_result"] for one in both)),
        ("requests with more than one", sum(one["with_more_than_one"] for one in both)),
        (
            "requests that ended in a status",
            sum(n for one in both for name, n in one["outcomes"].items() if "status" in name),
        ),
        ("answers that were wrong", sum(sum(one["wrong"].values()) for one in both)),
        ("counters of the device that differ", sum(a != b for _, a, b in found["device"])),
        ("counters between tiers that differ", sum(a != b for _, a, b in found["between"])),
    )
    return [{"what": what, "found": n, "bar": "0", "holds": n == 0} for what, n in rows]


def markdown(record: dict[str, Any]) -> str:
    """The section of the results page."""
    found = record["found"]
    results = found["results"]
    done = ", ".join(f"{name} {count}" for name, count in found["faults"].items())
    intro = (
        f"`{record['command']}`: {results['requests']:,} requests over three processes, 48 in flight on three streams, "
        f"1 s of deadline each, a link of the profile {_PROFILE} between device and fog; {found['seconds']:.0f} s in "
        f"all. Faults, each for 0.2 to 3 s, 0.5 to 4 s apart: {done}. Then {found['calm']['requests']:,} requests with "
        "nothing broken, over which the counters of all tiers are held against each other; those of the device, which "
        "is never ended, are held against its callers over all of them."
    )
    degraded = ", ".join(f"{name} {n:,}" for name, n in results["degraded"].items())
    answers = ", ".join(f"{name} {n:,}" for name, n in results["answers"].items())
    said = f"Answers: {answers}. Degraded: {degraded}."
    counters = [
        (what, f"{a:,.0f}", f"{b:,.0f}") for what, a, b in (*found["device"], *found["between"])
    ]
    checks = [
        (one["what"], f"{one['found']:,}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    return "\n\n".join(
        (
            intro,
            said,
            table(("counter", "one side", "the other"), counters),
            table(("what", "found", "bar", ""), checks),
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Break, ask, print and perhaps write; 0 where everything holds."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    found = measured(args.requests, args.seed)
    return record.conclude(
        found,
        name=NAME if args.requests >= 100_000 else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed],
    )


if __name__ == "__main__":
    sys.exit(main())
