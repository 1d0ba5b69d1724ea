"""What `offramp evaluate` shows: progress while stages run, and its tables at the end (rich)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from offramp.cli.live import TITLES

_SHOWN = 8  # points of the curve; the JSON has all
BASELINES = {**TITLES, "cloud_raw": "cloud only, raw tensor"}


class Watching:
    """A bar on stderr for each set of samples that stages run over; a context manager."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Watching:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def saw(self, what: str, done: int, of: int) -> None:
        """So many of the samples of that name are done."""
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=of)
        self._progress.update(self._bars[what], completed=done)


def show(figures: Mapping[str, Any]) -> None:
    """Print everything but the deployment's details to stdout."""
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a log has no width; the tables need 100
    data, bundle = figures["data"], figures["bundle"]
    console.print(
        f"{bundle['name']}, network {bundle['network'][:12]}, on {data['samples']:,} samples of {data['name']}",
        highlight=False,
    )
    console.print(_ways(figures))
    console.print(_exits(figures))
    console.print(_leaving(figures))
    if figures["certificates"]:
        console.print(_certificates(figures))
    if "beside" in figures:
        console.print(_beside(figures["beside"]))
    if "deployment" in figures:
        console.print(_deployment(figures["deployment"]))
    for note in figures["notes"].values():
        console.print(f"  {note}", style="dim", highlight=False)


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _ways(figures: Mapping[str, Any]) -> Table:
    """Policies, exits alone, baselines and the curve, each with what it costs."""
    headings = ("accuracy, %", "MFLOPs", "saved, %", "bytes up", "compute, ms")
    table = _table("Ways to answer", "", *headings)
    curve = list(enumerate(figures["curve"]))[:: -(-len(figures["curve"]) // _SHOWN) or 1]
    groups = (
        {f"policy {name}": score for name, score in figures["policies"].items()},
        {f"exit {k} alone": found["score"] for k, found in enumerate(figures["exits"])},
        {BASELINES[name]: score for name, score in figures["baselines"].items()},
        {f"curve, point {k}": score for k, score in curve},
    )
    for group in groups:
        for name, score in group.items():
            table.add_row(
                name,
                percent(score["accuracy"]),
                spread(score["flops"], 1e6, 2),
                _saved(score["flops"]["value"], figures["flops_without_heads"]),
                spread(score["bytes_up"], 1, 1),
                f"{score['compute_ms']:.2f}",
            )
        table.add_section()
    return table


def _saved(flops: float, whole: int) -> str:
    """The share of the network's FLOPs that is not computed, in percent; never -0.0."""
    return f"{round(100 * (1 - flops / whole), 1) + 0.0:.1f}" if whole else "-"


def _exits(figures: Mapping[str, Any]) -> Table:
    """Each exit by itself: likelihood, calibration, its stage's time."""
    headings = ("NLL", "NLL, calibrated", "ECE, %", "stage p50, ms", "p5 to p95")
    table = _table("Exits by themselves", "exit", *headings)
    for k, (found, stage) in enumerate(zip(figures["exits"], figures["stages"], strict=True)):
        table.add_row(
            str(k),
            f"{found['loss']:.4f}",
            f"{found['calibrated_loss']:.4f}",
            f"{100 * found['calibration_error']:.2f}",
            f"{stage['p50_ms']:.3f}",
            f"{stage['p5_ms']:.3f} - {stage['p95_ms']:.3f}",
        )
    return table


def _leaving(figures: Mapping[str, Any]) -> Table:
    """Who leaves where under each policy, and how right they are."""
    exits = [f"exit {k}" for k in range(len(figures["exits"]))]
    table = _table("Share leaving at each exit, and accuracy of those", "policy", *exits)
    for name, score in figures["policies"].items():
        cells = (
            f"{leaving['share']:.1%}, {percent(leaving['accuracy'])}"
            if leaving["accuracy"]
            else "-"
            for leaving in score["leaving"]
        )
        table.add_row(name, *cells)
    return table


def _certificates(figures: Mapping[str, Any]) -> Table:
    headings = ("risk", "bound, %", "confidence, %", "certified on", "measured, %", "verdict")
    table = _table("Certificates beside the risk measured here", "policy", *headings)
    for found in figures["certificates"]:
        certificate = found["certificate"]
        table.add_row(
            found["policy"],
            certificate["risk"],
            f"{100 * certificate['epsilon']:g}",
            f"{100 * (1 - certificate['delta']):g}",
            f"{certificate['samples']:,}",
            percent(found["measured"]),
            found["verdict"] + ("" if found["is_independent"] else ", no check"),
        )
    return table


def _beside(pair: Mapping[str, Any]) -> Table:
    other = pair["other"]
    title = f"Beside {other}, network {pair['other_network'][:12]}: exits alone, stages in turn at batch 1"
    headings = ("accuracy, %", "its", "same label, %", "stage p50, ms", "its", "kB", "its")
    table = _table(title, "exit", *headings)
    for k, found in enumerate(pair["exits"]):
        table.add_row(
            str(k),
            percent(found["accuracy"]),
            percent(found["other_accuracy"]),
            f"{100 * found['agreement']:.2f}",
            *(f"{found[key]['p50_ms']:.3f}" for key in ("time", "other_time")),
            *(f"{found[key] / 1e3:,.0f}" for key in ("size_bytes", "other_size_bytes")),
        )
    return table


def _deployment(deployed: Mapping[str, Any]) -> Table:
    headings = ("accuracy, %", "p50, ms", "p95", "p99", "bytes up", "bytes down", "degraded")
    table = _table("Three processes on this machine, 1 in flight for latency", "", *headings)
    ways = {"three_tier": deployed["overall"], **deployed["baselines"]}
    for name, found in ways.items():
        alone = found["one_in_flight"]
        table.add_row(
            BASELINES[name],
            f"{100 * found['accuracy']:.2f}",
            *(f"{alone[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{found['bytes_up']:.1f}",
            f"{found['bytes_down']:.1f}",
            str(found["degraded"]),
        )
    return table


def percent(estimate: Mapping[str, float]) -> str:
    """A share and half of its interval's width, in percent."""
    return spread(estimate, 0.01, 2)


def spread(estimate: Mapping[str, float], unit: float, digits: int) -> str:
    """A value and half of its interval's width, in that unit."""
    half = (estimate["high"] - estimate["low"]) / 2 / unit
    value = f"{estimate['value'] / unit:.{digits}f}"
    return f"{value} ±{half:.{digits}f}" if half >= 0.5 * 10**-digits else value
