"""What the demo shows while it runs, and the table at its end (rich)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from offramp.client import Timed
from offramp.evaluation.comparison import ArmResult
from offramp.evaluation.figures import Figures
from offramp.rpc import Answer, Tier

TITLES = {
    "three_tier": "three tiers, with exits",
    "first_exit": "first exit only",
    "plain_split": "plain split, exits off",
    "all_device": "all on the device",
    "cloud_png": "cloud only, PNG",
    "cloud_jpeg": "cloud only, JPEG q75",
}


class Shown(NamedTuple):
    """What came of a demo: results by arm, the table of them, them as one object, and a line each to add."""

    results: Mapping[str, ArmResult]
    table: Table
    figures: Mapping[str, object]
    remarks: Sequence[str]


class LiveView:
    """A bar for each arm, with running accuracy and who has answered; a context manager."""

    def __init__(self, names: Sequence[str], labels: NDArray[np.int64]) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = 100  # a log has no width; the table needs 80
        self._labels = labels
        self._right = dict.fromkeys(names, 0)
        self._answers = {name: dict.fromkeys(Tier, 0) for name in names}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            console=self.console,
        )
        self._bars: dict[str, TaskID] = {
            name: self._progress.add_task(TITLES[name], total=len(labels), said="")
            for name in names
        }

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def saw(self, name: str, timed: Timed) -> None:
        """One more outcome of that arm; the bar moves every hundred."""
        answers = self._answers[name]
        if isinstance(timed.outcome, Answer):
            answers[timed.outcome.tier] += 1
            self._right[name] += int(timed.outcome.label == self._labels[timed.index])
        done = sum(answers.values())
        if done and (done % 100 == 0 or done == len(self._labels)):
            shares = "  ".join(f"{tier} {count / done:.0%}" for tier, count in answers.items())
            said = f"{self._right[name] / done:.1%} right   {shares}"
            self._progress.update(self._bars[name], completed=done, said=said)


def table(results: Mapping[str, ArmResult], images: int) -> Table:
    """One table: the tiers, all of them together, and the baselines, each with its latency alone."""
    grid = _grid(
        f"{images:,} Fashion-MNIST test images, one a request, closed loop, 8 in flight",
        "share and accuracy in %; latency in ms at the client, and with 1 in flight over 1,000 "
        "images (baselines: 500); bytes averaged over all images, of all links",
        "message",
    )
    for name, figures in results["three_tier"].run.tiers.items():
        grid.add_row(f"  {name}", *_cells(figures), _number(figures.bytes_up_per_sent))
    grid.add_section()
    for name, result in results.items():
        style = "bold" if name == "three_tier" else ""
        overall = result.run.overall
        message = _number(overall.bytes_up_per_sent)
        grid.add_row(TITLES[name], *_cells(overall), message, style=style)
        if result.alone is None:
            continue
        alone = result.alone.overall
        latencies = (_number(value) for value in (alone.p50_ms, alone.p95_ms, alone.p99_ms))
        message = _number(alone.bytes_up_per_sent)
        grid.add_row("  1 in flight", "", "", *latencies, "", "", message, style=style or "dim")
    return grid


def rehearsal_table(
    results: Mapping[str, ArmResult], images: int, *, per_second: float, deadline_s: float
) -> Table:
    """The same over emulated links, with the share of degraded answers in the place of a message's bytes."""
    grid = _grid(
        f"{images:,} Fashion-MNIST test images over emulated links, {per_second:g} a second",
        "share and accuracy in %; latency in ms at the client; bytes averaged over all images, of all links; "
        f"degr.: % answered by the exit at hand, since nothing came over the links within {deadline_s:g} s",
        "degr.",
    )
    for name, figures in results["three_tier"].run.tiers.items():
        grid.add_row(f"  {name}", *_cells(figures), "")
    grid.add_section()
    for name, result in results.items():
        style = "bold" if name == "three_tier" else ""
        degraded = f"{result.run.degraded / images:.1%}".rstrip("%")
        grid.add_row(TITLES[name], *_cells(result.run.overall), degraded, style=style)
    return grid


def _grid(title: str, caption: str, last: str) -> Table:
    grid = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("", no_wrap=True)
    for heading in ("share", "right", "p50", "p95", "p99", "up", "down", last):
        grid.add_column(heading, justify="right", no_wrap=True)
    return grid


def _cells(figures: Figures) -> list[str]:
    return [
        f"{figures.share:.1%}".rstrip("%"),
        "-" if figures.accuracy is None else f"{figures.accuracy:.2%}".rstrip("%"),
        _number(figures.p50_ms),
        _number(figures.p95_ms),
        _number(figures.p99_ms),
        _number(figures.bytes_up),
        _number(figures.bytes_down),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
