"""Three tiers under a steady load, and whether their memory grows.

python -m benchmarks.soak [--minutes M] [--load SHARE]

    capacity measured for some seconds -> SHARE of it for M minutes -> resident memory of each tier, every 5 s

The bar is of the growth after the first 5 minutes, from a straight line through what was read since. Exit code 1 where
it is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from benchmarks import record
from benchmarks.chaos.processes import TierRun, running_tiers
from benchmarks.table import table, verdict
from offramp.client import AsyncClient
from offramp.data import fashion_mnist
from offramp.errors import OfframpError

NAME, COMMAND = "soak", "benchmarks.soak"
EXAMPLE = Path("examples/fashion_mnist")
PICTURE = Path("docs/img/soak.png")
MOST_GROWTH = 0.02
_SETTLES_S = 300.0
_EVERY_S = 5.0
_CAPACITY_S = 5.0
_IN_FLIGHT = 32


def resident_mb(process_id: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/{process_id}/status has no VmRSS")


class Load:
    """What was asked of the device, and how it ended."""

    def __init__(self, client: AsyncClient, images: Any) -> None:
        self._client, self._images = client, images
        self.sent = 0
        self.ends: dict[str, int] = {}

    async def one(self) -> None:
        """Ask once."""
        image = self._images[self.sent % len(self._images)]
        self.sent += 1
        try:
            answer = await self._client.infer(image, deadline_s=5.0)
            end: str = answer.degraded or "answered"
        except OfframpError as exc:
            end = type(exc).__name__
        self.ends[end] = self.ends.get(end, 0) + 1

    async def capacity_hz(self) -> float:
        """Answers a second with 32 in flight."""
        until = time.monotonic() + _CAPACITY_S
        began = self.sent

        async def ask_on() -> None:
            while time.monotonic() < until:
                await self.one()

        await asyncio.gather(*(ask_on() for _ in range(_IN_FLIGHT)))
        return (self.sent - began) / _CAPACITY_S

    async def steady(self, rate_hz: float, seconds: float) -> None:
        """So many a second, open loop."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate_hz * seconds)):
                await asyncio.sleep(max(began + number / rate_hz - time.monotonic(), 0.0))
                if time.monotonic() > began + seconds:
                    return  # behind, on a machine that does other things too: nobody watches any more
                group.create_task(self.one())


async def _watch(tiers: Sequence[TierRun], seconds: float) -> list[tuple[float, list[float]]]:
    read, began = [], time.monotonic()
    columns = ("soaking", BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=seconds)
        while (now := time.monotonic() - began) < seconds:
            read.append((now, [resident_mb(tier.process_id) for tier in tiers]))
            progress.update(task, completed=now)
            await asyncio.sleep(_EVERY_S)
    return read


async def _soak(tiers: Sequence[TierRun], share: float, seconds: float) -> dict[str, Any]:
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)
    async with AsyncClient(tiers[0].listen) as client:
        load = Load(client, images)
        capacity_hz = await load.capacity_hz()
        load.ends.clear()
        steady = asyncio.create_task(load.steady(share * capacity_hz, seconds))
        read = await _watch(tiers, seconds)
        await steady
    return {
        "capacity_hz": capacity_hz,
        "share": share,
        "ends": load.ends,
        "tiers": [tier.name for tier in tiers],
        "seconds": [round(at, 1) for at, _ in read],
        "resident_mb": [sizes for _, sizes in read],
    }


def growth(seconds: Sequence[float], sizes: Sequence[float]) -> float:
    """Relative growth from 5 minutes on (or from a sixth of a shorter run), of a line through it."""
    at, size = np.array(seconds), np.array(sizes)
    later = at >= min(_SETTLES_S, at[-1] / 6)
    slope, start = np.polyfit(at[later], size[later], 1)
    first, last = at[later][0], at[later][-1]
    return float(slope * (last - first) / (start + slope * first))


def bars(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One a tier, and that all was answered."""
    rows = []
    for index, tier in enumerate(found["tiers"]):
        grown = growth(found["seconds"], [sizes[index] for sizes in found["resident_mb"]])
        rows.append(
            {
                "what": f"{tier}, resident memory grows by",
                "found": grown,
                "bar": f"less than {MOST_GROWTH:.0%}",
                "holds": grown < MOST_GROWTH,
            }
        )
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The section of the results page."""
    found = record["found"]
    ends = ", ".join(f"{name} {count:,}" for name, count in sorted(found["ends"].items()))
    intro = (
        f"`{record['command']}`: three processes under {found['share']:.0%} of the {found['capacity_hz']:.0f} requests "
        f"a second that they answer with {_IN_FLIGHT} in flight, for {found['seconds'][-1] / 60:.0f} minutes; memory "
        f"read every {_EVERY_S:g} s. Ends: {ends}."
    )
    rows = [
        (
            tier,
            f"{found['resident_mb'][0][k]:.1f}",
            f"{found['resident_mb'][-1][k]:.1f}",
            f"{100 * one['found']:+.2f} %",
            one["bar"],
            verdict(one["holds"]),
        )
        for k, (tier, one) in enumerate(zip(found["tiers"], found["bars"], strict=True))
    ]
    headings = ("tier", "MB at first", "MB at the end", "growth after 5 minutes", "bar", "")
    return "\n\n".join((intro, f"![Memory over time](img/{PICTURE.name})", table(headings, rows)))


def plot(found: dict[str, Any], path: Path) -> None:
    """Resident memory over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    minutes = np.array(found["seconds"]) / 60
    for index, tier in enumerate(found["tiers"]):
        axes.plot(minutes, [sizes[index] for sizes in found["resident_mb"]], label=tier)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, print and perhaps write; 0 where no tier grows."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.7, help="of what the tiers can answer")
    args = parser.parse_args(argv)
    with running_tiers(EXAMPLE / "bundle", log_level="error") as tiers:
        found = asyncio.run(_soak(tiers, args.load, 60 * args.minutes))
    found["bars"] = bars(found)
    is_kept = args.minutes >= 30
    if is_kept:
        plot(found, PICTURE)
    return record.conclude(
        found,
        name=NAME if is_kept else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[],
    )


if __name__ == "__main__":
    sys.exit(main())
