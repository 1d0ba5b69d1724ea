"""The figures of `offramp evaluate` as a picture: accuracy against FLOPs, bytes and compute time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_CURVE, _POLICY, _EXIT, _BASELINE = "#2a9d8f", "#264653", "#e9c46a", "#9aa5ab"
# Where each baseline stands apart; elsewhere it lies on an exit that is drawn anyway.
_BASELINES = {
    "flops": {
        "first_exit": "first exit only",
        "all_device": "all stages, anywhere",
        "cloud_jpeg": "JPEG",
    },
    "bytes_up": {
        "first_exit": "first exit only",
        "all_device": "all on the device",
        "plain_split": "plain split",
        "cloud_png": "PNG",
        "cloud_jpeg": "JPEG",
        "cloud_raw": "raw tensor",
    },
}
_BASELINES["compute_ms"] = _BASELINES["flops"]


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of three panels that share the axis of accuracy."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    titles = {
        "flops": ("mean MFLOPs a sample", 1e6),
        "bytes_up": ("mean bytes up a sample, both links", 1.0),
        "compute_ms": ("mean compute a sample, ms", 1.0),
    }
    for axes, (cost, (label, unit)) in zip(panels, titles.items(), strict=True):
        if cost == "compute_ms" and "deployment" in figures:
            _draw_deployed(axes, figures["deployment"])
        else:
            _draw_panel(axes, figures, cost, unit)
            axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %, with 95 % interval")
    panels[1].set_xscale("symlog", linthresh=10)
    panels[1].set_xlim(left=-1)
    panels[1].margins(x=0.15)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[0].legend(handles, labels, fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_panel(axes: Axes, figures: Mapping[str, Any], cost: str, unit: float) -> None:
    def point(score: Mapping[str, Any]) -> tuple[float, float]:
        spent = score[cost]
        value = spent if isinstance(spent, float) else spent["value"]
        return value / unit, 100 * score["accuracy"]["value"]

    if figures["curve"]:
        xs, ys = zip(*map(point, figures["curve"]), strict=True)
        axes.plot(xs, ys, color=_CURVE, lw=1.5, label="cascades, path fixed on held-out samples")
    groups = (
        ("exits alone", [found["score"] for found in figures["exits"]], _EXIT, "o"),
        ("policies", list(figures["policies"].values()), _POLICY, "D"),
    )
    for label, scores, colour, marker in groups:
        for k, score in enumerate(scores):
            x, y = point(score)
            errors = [[y - 100 * score["accuracy"]["low"]], [100 * score["accuracy"]["high"] - y]]
            named = "" if k else label
            axes.errorbar(
                x, y, yerr=errors, label=named, fmt=marker, color=colour, ms=6, capsize=2, lw=1
            )
    for name, label in _BASELINES[cost].items():
        if name in figures["baselines"]:
            x, y = point(figures["baselines"][name])
            axes.scatter(x, y, color=_BASELINE, marker="s", s=30, zorder=3)
            to_the_left = x > 0.5 * axes.get_xlim()[1] or x > 100
            axes.annotate(
                label,
                (x, y),
                xytext=(-7 if to_the_left else 7, -12),
                textcoords="offset points",
                ha="right" if to_the_left else "left",
                fontsize=8,
                color="#5c666b",
            )


def _draw_deployed(axes: Axes, deployed: Mapping[str, Any]) -> None:
    """End to end through three processes, one in flight."""
    ways = {"three tiers": deployed["overall"]} | {
        _BASELINES["bytes_up"][name]: found for name, found in deployed["baselines"].items()
    }
    rows = list(ways.items())[::-1]
    for row, (label, found) in enumerate(rows):
        times = [found["one_in_flight"][key] for key in ("p50_ms", "p95_ms", "p99_ms")]
        colour = _POLICY if label == "three tiers" else _BASELINE
        axes.plot([times[0], times[-1]], [row, row], color=colour, lw=2)
        axes.scatter(times, [row] * 3, color=colour, s=(60, 25, 25), zorder=3)
    names = [f"{label}\n{found['accuracy']:.1%} right" for label, found in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms at the client: p50 (large), p95, p99")
