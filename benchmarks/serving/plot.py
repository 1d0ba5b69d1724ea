"""CPU time of a request and its latency at one tier, system by system, from benchmarks/results/serving_w1.json.

python -m benchmarks.serving.plot [PNG]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator

from benchmarks import record

PICTURE = Path("docs/img/serving.png")
_OURS, _OTHERS = "#2a9d8f", "#9aa5ab"


def _panel(axes: Any, found: Mapping[str, Any], name: str, label: str) -> None:
    """Medians as points, their range as whiskers; a system without the figure is left out."""
    kept = [(s, one[name]) for s, one in found["summary"].items() if one[name] is not None]
    kept.sort(key=lambda pair: pair[1]["median"], reverse=True)
    medians = [figure["median"] for _, figure in kept]
    below = [figure["median"] - figure["low"] for _, figure in kept]
    above = [figure["high"] - figure["median"] for _, figure in kept]
    titles = [found["titles"][system].replace("*", "") for system, _ in kept]
    colours = [_OURS if system.startswith("offramp") else _OTHERS for system, _ in kept]
    axes.errorbar(medians, titles, xerr=(below, above), fmt="none", ecolor="#264653", capsize=2)
    axes.scatter(medians, titles, color=colours, s=60, zorder=3)
    axes.set(xlabel=label, xscale="log")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # all nine between two powers overlap
    axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of two panels."""
    figure, (costs, tails) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    _panel(costs, found, "cpu_ms", "server CPU-ms a request, 8 in flight")
    bare = median(one["bare"]["1"]["cpu_ms"] for one in found["rounds"])
    costs.axvline(bare, color="#e76f51", linestyle=":", label="onnxruntime alone")
    costs.legend(frameon=False)
    _panel(tails, found, "p99_ms", "p99 latency with 8 in flight, ms")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw(record.read("serving_w1")["found"], Path(sys.argv[1]) if sys.argv[1:] else PICTURE)
