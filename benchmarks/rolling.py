"""A bundle changes on three tiers under load: cloud, fog, device, pushed one after the other, and back, and again.

python -m benchmarks.rolling [--changes N] [--rate HZ]

The other bundle is the shipped one with its classes in another order: the same answers in words, by other numbers. Had
one stage of the one met a stage of the other, the word would be another one than the whole network's. Exit code 1 where
a bar is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from benchmarks import record
from benchmarks.chaos.processes import TierRun, total
from benchmarks.table import table, verdict
from offramp.bundle import Bundle, load_bundle, write_manifest
from offramp.client import AsyncClient
from offramp.data import fashion_mnist
from offramp.errors import OfframpError
from offramp.evaluation.reference import run_stages

NAME, COMMAND = "rolling", "benchmarks.rolling"
EXAMPLE = Path("examples/fashion_mnist")
DEADLINE_S = 1.0
_QUIET_S = 5.0
MOST_DEGRADED, MOST_DEGRADED_S = 0.05, 5.0


def turned(bundle: Bundle, folder: Path) -> Bundle:
    """The same network with its classes moved on by one place, in `folder`: another digest, the same words."""
    shutil.copytree(bundle.folder, folder)
    manifest, network = bundle.manifest, bundle.manifest.network
    order = np.roll(np.arange(len(network.classes)), 1)
    stages = []
    for k, stage in enumerate(network.stages):
        model = onnx.load_from_string(bundle.stage_bytes(k))
        graph, straight = model.graph, f"{stage.logits}_straight"
        for node in graph.node:
            node.output[:] = [straight if one == stage.logits else one for one in node.output]
            node.input[:] = [straight if one == stage.logits else one for one in node.input]
        graph.initializer.append(onnx.numpy_helper.from_array(order.astype(np.int64), "turn"))
        graph.node.append(helper.make_node("Gather", [straight, "turn"], [stage.logits], axis=1))
        content = model.SerializeToString()
        (folder / stage.file).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        stages.append(stage.model_copy(update={"sha256": sha256}))
    classes = tuple(network.classes[k] for k in order)
    other = network.model_copy(update={"classes": classes, "stages": tuple(stages)})
    # Certificates are of the other network.
    write_manifest(folder, manifest.model_copy(update={"network": other, "certificates": ()}))
    return load_bundle(folder)


class Asked(NamedTuple):
    """One request. word: the class that was answered, "" for none; network: by which digest; reason: if degraded."""

    number: int
    due: float
    took_s: float
    word: str
    exit: int
    network: str
    reason: str
    error: str


class Words:
    """What each network answers to each image at each exit, in words."""

    def __init__(self, bundles: Sequence[Bundle], images: Any) -> None:
        self.classes = {b.digest: b.manifest.network.classes for b in bundles}
        logits = run_stages(bundles[0], images, batch=100).logits
        names = np.array(bundles[0].manifest.network.classes)
        self._words = [names[at_exit.argmax(1)] for at_exit in logits]

    def of(self, answer: Any) -> str:
        """The word of an answer; "" where its network is none of these."""
        classes = self.classes.get(answer.network, ())
        return classes[answer.label] if answer.label < len(classes) else ""

    def wanted(self, one: Asked) -> str:
        """The whole network's, at that exit."""
        words = self._words[one.exit]
        return str(words[one.number % len(words)])


async def load(
    address: str, images: Any, words: Words, rate_hz: float, stopped: asyncio.Event
) -> list[Asked]:
    """Ask in open loop until stopped."""
    asked: list[Asked] = []

    async def one(client: AsyncClient, number: int, due: float) -> None:
        word, exit_, network, reason, error = "", 0, "", "", ""
        try:
            answer = await client.infer(images[number % len(images)], deadline_s=DEADLINE_S)
            word, exit_, network = words.of(answer), answer.exit, answer.network
            reason = answer.degraded or ""
        except OfframpError as exc:
            error = type(exc).__name__
        asked.append(
            Asked(number, due, time.monotonic() - due, word, exit_, network, reason, error)
        )

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        began, number = time.monotonic(), 0
        while not stopped.is_set():
            due = began + number / rate_hz
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            group.create_task(one(client, number, due))
            number += 1
    return sorted(asked)


@contextmanager
def tiers(bundle: Path, folder: Path) -> Iterator[tuple[TierRun, TierRun, TierRun]]:
    """Cloud, fog and device that take pushes, ready."""
    with ExitStack() as stack:
        below: dict[str, object] = {}
        found = []
        for name in ("cloud", "fog", "device"):
            pushes = {"bundles.push": "true", "bundles.folder": folder / name}
            tier = TierRun(name, bundle, **below, **pushes)
            stack.callback(tier.end)
            tier.start()
            below = {"uplink.address": tier.listen}
            found.append(tier)
        cloud, fog, device = found
        yield cloud, fog, device


def push(bundle: Path, to: Sequence[TierRun]) -> None:
    """As somebody would: `offramp bundle push`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "offramp.cli", "bundle", "push", str(bundle)]
    for tier in to:
        command += ["--to", tier.listen]
    subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603


async def _changed(
    bundles: Sequence[Bundle], changes: int, rate_hz: float, folder: Path
) -> tuple[list[Asked], list[tuple[float, float]], float]:
    """The requests, when each change began and ended, and the refusals counted."""
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)
    words = Words(bundles, images)
    spans, stopped = [], asyncio.Event()
    with tiers(bundles[0].folder, folder) as found:
        loading = asyncio.create_task(load(found[-1].listen, images, words, rate_hz, stopped))
        for k in range(changes):
            await asyncio.sleep(_QUIET_S)
            began = time.monotonic()
            await asyncio.to_thread(push, bundles[(k + 1) % 2].folder, found)
            spans.append((began, time.monotonic()))
        await asyncio.sleep(_QUIET_S)
        stopped.set()
        asked = await loading
        refused = sum(total(t.counted(), "offramp_bundle_swaps_total", "refused") for t in found)
    wrong = [one for one in asked if one.word and one.word != words.wanted(one)]
    marked = [one._replace(error="mixed") if one in wrong else one for one in asked]
    return marked, spans, refused


def measured(changes: int, rate_hz: float) -> dict[str, Any]:
    """What `found` of the record is."""
    with tempfile.TemporaryDirectory() as temporary:
        first = load_bundle(EXAMPLE / "bundle")
        second = turned(first, Path(temporary, "turned"))
        asked, spans, refused = asyncio.run(
            _changed((first, second), changes, rate_hz, Path(temporary))
        )
    rows = [_row(asked, begin, end, spans[0][0]) for begin, end in spans]
    errors = Counter(one.error for one in asked if one.error and one.error != "mixed")
    mixed = sum(one.error == "mixed" or (not one.error and not one.word) for one in asked)
    return {
        "rate_hz": rate_hz,
        "requests": len(asked),
        "networks": dict(Counter(one.network[:12] for one in asked)),
        "errors": dict(errors),
        "rows": rows,
        "bars": [
            _bar("errors", sum(errors.values()), 0),
            _bar("mixed answers", mixed, 0),
            _bar("bundles refused", refused, 0),
            _bar(
                "degraded during a change, share, worst",
                max(r["share"] for r in rows),
                MOST_DEGRADED,
            ),
            _bar("degraded for, s, worst", max(r["degraded_s"] for r in rows), MOST_DEGRADED_S),
        ],
    }


def _row(asked: Sequence[Asked], begin: float, end: float, zero: float) -> dict[str, Any]:
    during = [one for one in asked if begin <= one.due < end + 1.0]
    before = [one.took_s for one in asked if begin - _QUIET_S + 1.0 <= one.due < begin]
    degraded = [one for one in during if one.reason]
    times = [one.due for one in degraded]
    return {
        "at_s": begin - zero,
        "took_s": end - begin,
        "requests": len(during),
        "degraded": dict(Counter(one.reason for one in degraded)),
        "share": len(degraded) / max(len(during), 1),
        "degraded_s": max(times) - min(times) if times else 0.0,
        "p99_before_ms": float(np.percentile(before, 99)) * 1e3 if before else 0.0,
        "p99_during_ms": float(np.percentile([one.took_s for one in during], 99)) * 1e3,
    }


def _bar(what: str, found: float, most: float) -> dict[str, Any]:
    return {"what": what, "found": found, "bar": f"at most {most:g}", "holds": found <= most}


def markdown(content: dict[str, Any]) -> str:
    """The section of the results page."""
    found = content["found"]
    networks = ", ".join(f"{name or 'none'} {n:,}" for name, n in found["networks"].items())
    intro = (
        f"`{content['command']}`: three processes under {found['rate_hz']:g} requests a second; `offramp bundle push` "
        "to cloud, fog and device in turn, the shipped bundle and one with its classes in another order taking turns, "
        f"{_QUIET_S:g} s between. {found['requests']:,} requests, by network: {networks}. Each answer's "
        "word is held against the whole network's at that exit. A bundle is opened beside the one in use, in a child "
        "process first, on the cores that also answer."
    )
    headings = (
        "change",
        "took, s",
        "requests",
        "degraded",
        "share",
        "for, s",
        "p99 before, ms",
        "p99, ms",
    )
    body = [
        (
            k,
            f"{one['took_s']:.1f}",
            one["requests"],
            ", ".join(f"{why} {n}" for why, n in sorted(one["degraded"].items())) or "none",
            f"{one['share']:.1%}",
            f"{one['degraded_s']:.1f}",
            f"{one['p99_before_ms']:.1f}",
            f"{one['p99_during_ms']:.1f}",
        )
        for k, one in enumerate(found["rows"], 1)
    ]
    checks = [
        (one["what"], f"{one['found']:.3g}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    return "\n\n".join((intro, table(headings, body), table(("what", "found", "bar", ""), checks)))


def main(argv: Sequence[str] | None = None) -> int:
    """Change, print and write; 0 where no bar is broken."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--changes", type=int, default=6)
    parser.add_argument("--rate", type=float, default=50.0, metavar="HZ")
    args = parser.parse_args(argv)
    found = measured(args.changes, args.rate)
    return record.conclude(
        found,
        name=NAME,
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[],
    )


if __name__ == "__main__":
    sys.exit(main())
