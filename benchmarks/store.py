"""Store and forward: the fog goes away and comes back, and the device is killed while it catches up, again and again.

python -m benchmarks.store [--requests N] [--kills K] [--seed N]

    callers --R a second--> device (kept on its disk) --> fog --> cloud
                              killed while it asks again   killed for a while, once before each kill of the device

Every answer that said `stored` must have one full answer in the end, the one that the whole network gives. Exit code 1
where one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.chaos.processes import TierRun, total
from benchmarks.table import table, verdict
from offramp.client import AsyncClient
from offramp.data import fashion_mnist
from offramp.errors import OfframpError
from offramp.rpc import Answer, SampleId, Tier
from offramp.rpc.stored import Stored

NAME, COMMAND = "store", "benchmarks.store"
EXAMPLE = Path("examples/fashion_mnist")
_LOOKED_AT = 1_024  # test images, of which those are used that the device hands on
_DEADLINE_S = 1.0
_CATCHES_UP_S = 120.0  # at most, after the last fault
_TOLERANCE = 1e-4  # of a probability: batches of other sizes differ in the last digits


@dataclass(slots=True)
class Seen:
    """What the callers saw: outcomes by name, and by id the image of every answer that said `stored`."""

    outcomes: Counter[str] = field(default_factory=Counter)
    stored: dict[SampleId, int] = field(default_factory=dict)

    def take(self, outcome: Answer | OfframpError, image: int) -> None:
        """One request more has ended."""
        if isinstance(outcome, OfframpError):
            self.outcomes["no answer: the device was down"] += 1
        elif outcome.id is not None:
            self.outcomes["degraded, stored"] += 1
            self.stored[outcome.id] = image
        else:
            kind = f"degraded ({outcome.degraded}), not stored"
            self.outcomes[kind if outcome.degraded else "full at once"] += 1


class Callers:
    """Ask so many a second until so many were asked."""

    def __init__(self, client: AsyncClient, images: NDArray[np.uint8], rate: float) -> None:
        self._client, self._images, self._rate = client, images, rate
        self.seen = Seen()

    async def run(self, count: int) -> None:
        """Return once the last one has its answer."""
        began, asking = time.monotonic(), set()
        for number in range(count):
            await asyncio.sleep(began + number / self._rate - time.monotonic())
            task = asyncio.create_task(self._ask(number % len(self._images)))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.gather(*asking)

    async def _ask(self, image: int) -> None:
        outcome: Answer | OfframpError
        try:
            outcome = await self._client.infer(self._images[image], deadline_s=_DEADLINE_S)
        except OfframpError as exc:
            outcome = exc
        self.seen.take(outcome, image)


class Trouble:
    """The fog away and back, then the device killed while it asks again; so often."""

    def __init__(self, device: TierRun, fog: TierRun, seed: int) -> None:
        self._device, self._fog = device, fog
        self._chance = random.Random(seed)  # noqa: S311
        self.kills: list[dict[str, float]] = []
        self.resends: Counter[str] = Counter()

    async def once(self) -> None:
        """One of each."""
        self._fog.end()
        away_s = self._chance.uniform(1.0, 4.0)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self._fog.start)
        asked = self._chance.randint(3, 40)
        counted = await self._until_asked_again(asked)
        self._device.end()
        self.note(counted)
        waiting, answered = (
            counted["offramp_store_samples", f'held="{held}"'] for held in ("waiting", "answered")
        )
        self.kills.append({"fog_away_s": away_s, "waiting": waiting, "answered": answered})
        await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        await asyncio.to_thread(self._device.start)
        await asyncio.sleep(self._chance.uniform(0.5, 3.0))

    async def _until_asked_again(self, count: int) -> Mapping[tuple[str, str], float]:
        until = time.monotonic() + 30.0
        while True:
            counted = await asyncio.to_thread(self._device.counted)
            answered = counted["offramp_store_resends_total", 'resend="answered"']
            waiting = counted["offramp_store_samples", 'held="waiting"']
            if answered >= count or (answered and waiting < 5) or time.monotonic() > until:
                return counted
            await asyncio.sleep(0.02)

    def note(self, counted: Mapping[tuple[str, str], float]) -> None:
        """How often a device that ends now has asked again."""
        for resend in ("answered", "in_vain", "failed"):
            label = f'resend="{resend}"'
            self.resends[resend] += int(total(counted, "offramp_store_resends_total", label))


async def undegraded(client: AsyncClient, images: NDArray[np.uint8]) -> list[Answer]:
    """The answers of a deployment in which nothing is broken. Raises RuntimeError for one that is degraded."""
    answers: dict[int, Answer] = {}
    async for timed in client.infer_many(images, in_flight=8):
        if not isinstance(timed.outcome, Answer) or timed.outcome.degraded:
            raise RuntimeError(f"image {timed.index}: {timed.outcome}")
        answers[timed.index] = timed.outcome
    return [answers[k] for k in range(len(images))]


async def asked(
    tiers: tuple[TierRun, TierRun], images: NDArray[np.uint8], *, count: int, kills: int, seed: int
) -> dict[str, Any]:
    """What was seen of the device, and what its store holds in the end."""
    device, fog = tiers
    trouble = Trouble(device, fog, seed)
    async with AsyncClient(device.listen) as client:
        answers = await undegraded(client, images)
        unsure = [k for k, answer in enumerate(answers) if answer.tier is not Tier.DEVICE]
        callers = Callers(client, images[unsure], rate=50.0)
        asking = asyncio.create_task(callers.run(count))
        for _ in range(kills):
            await trouble.once()
        fog.end()  # until the last request
        await asking
        await asyncio.to_thread(fog.start)
        began = time.monotonic()
        counted = await _caught_up(device)
        took_s = time.monotonic() - began
        trouble.note(counted)
        results = [stored async for stored in client.results(waiting=True)]
    expected = [answers[k] for k in unsure]
    return {
        "outcomes": dict(callers.seen.outcomes),
        "kills": trouble.kills,
        "resends": dict(trouble.resends),
        "caught_up_s": took_s,
        "store": compared(callers.seen.stored, results, expected),
    }


async def _caught_up(device: TierRun) -> Mapping[tuple[str, str], float]:
    """What the device counts once nothing waits, or after two minutes."""
    until = time.monotonic() + _CATCHES_UP_S
    while True:
        counted = await asyncio.to_thread(device.counted)
        waiting = counted["offramp_store_samples", 'held="waiting"']
        if not waiting or time.monotonic() > until:
            return counted
        await asyncio.sleep(0.1)


def compared(
    told: Mapping[SampleId, int], results: Sequence[Stored], expected: Sequence[Answer]
) -> dict[str, int]:
    """What the store holds against what callers were told (id to image), and against each image's undegraded answer."""
    rows = Counter(stored.id for stored in results)
    return {
        "told": len(told),
        "in_store": len(results),
        "answered": sum(isinstance(stored.full, Answer) for stored in results),
        "waiting": sum(stored.full is None for stored in results),
        "failed": sum(isinstance(stored.full, OfframpError) for stored in results),
        "lost": sum(one not in rows for one in told),
        "twice": sum(count > 1 for count in rows.values()),
        "untold": sum(one not in told for one in rows),
        "wrong": sum(
            isinstance(stored.full, Answer) and not _same(stored.full, expected[told[stored.id]])
            for stored in results
            if stored.id in told
        ),
    }


def _same(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same exit's and say the same."""
    if (one.label, one.exit, one.degraded) != (other.label, other.exit, None):
        return False
    return bool(np.abs(one.probabilities - other.probabilities).max() <= _TOLERANCE)


def measured(count: int, kills: int, seed: int, looked_at: int = _LOOKED_AT) -> dict[str, Any]:
    """What `found` of the record is."""
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)[:looked_at]
    bundle = EXAMPLE / "bundle"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cloud = TierRun("cloud", bundle, log_level="error")
        fog = TierRun("fog", bundle, **{"uplink.address": cloud.listen, "log_level": "error"})
        store = {"store.folder": folder, "store.rate": 50.0}
        uplink = {"uplink.address": fog.listen, "log_level": "error"}
        device = TierRun("device", bundle, **uplink, **store)
        for tier in (cloud, fog, device):
            stack.callback(tier.end)
            tier.start()
        found = asyncio.run(asked((device, fog), images, count=count, kills=kills, seed=seed))
    return {"requests": count, **found, "bars": bars(found)}


def bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What must hold."""
    store = found["store"]
    rows = (
        ("stored samples that are not in the store", store["lost"]),
        ("that are there more than once", store["twice"]),
        ("that still wait, or will have no full answer", store["waiting"] + store["failed"]),
        ("whose full answer is not the whole network's", store["wrong"]),
        ("kills at which nothing waited", sum(not kill["waiting"] for kill in found["kills"])),
    )
    return [{"what": what, "found": n, "bar": "0", "holds": n == 0} for what, n in rows]


def markdown(record: dict[str, Any]) -> str:
    """The section of the results page."""
    found = record["found"]
    store, resends = found["store"], found["resends"]
    intro = (
        f"`{record['command']}`: {found['requests']:,} requests, 50 a second, of images that the device hands on. The "
        "fog is killed and comes back, and while the device asks again about what it has stored (at most 50 a second), "
        f"the device is killed, too: {len(found['kills'])} times. Then the fog is away until the last request, and the "
        f"device catches up, which took {found['caught_up_s']:.0f} s."
    )
    outcomes = ", ".join(f"{name} {count:,}" for name, count in sorted(found["outcomes"].items()))
    said = (
        f"Callers saw: {outcomes}. In the store in the end: {store['in_store']:,} samples, {store['untold']} of them "
        "committed just before a kill, so that their callers heard nothing. Asked again, as far as could be counted "
        f"before each kill: {sum(resends.values()):,} times, {resends['answered']:,} answered in full, "
        f"{resends['in_vain']:,} in vain."
    )
    kills = [
        (k + 1, f"{one['fog_away_s']:.1f}", f"{one['waiting']:.0f}", f"{one['answered']:.0f}")
        for k, one in enumerate(found["kills"])
    ]
    checks = [
        (one["what"], f"{one['found']:,}", one["bar"], verdict(one["holds"]))
        for one in found["bars"]
    ]
    headings = ("kill of the device", "fog away before, s", "waiting then", "answered by then")
    return "\n\n".join(
        (intro, said, table(headings, kills), table(("what", "found", "bar", ""), checks))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Break, ask, print and perhaps write; 0 where everything holds."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--kills", type=int, default=8, help="of the device")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    found = measured(args.requests, args.kills, args.seed)
    return record.conclude(
        found,
        name=NAME if args.requests >= 3_000 else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed],
    )


if __name__ == "__main__":
    sys.exit(main())
