"""Accuracy against bytes: features through the wire codec beside images as JPEG and WebP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.imagenette.curve import frontier
from benchmarks.imagenette.report import curves

_STYLE = {
    "wire codec": ("C3", "o-"),
    "JPEG": ("C0", "s-"),
    "JPEG without its tables": ("C0", "s:"),
    "JPEG, smaller too": ("C0", "x--"),
    "WebP": ("C2", "^-"),
    "WebP, smaller too": ("C2", "x--"),
}


def _panel(axes: Axes, found: dict[str, Any], *, cascade: bool) -> None:
    for name, points in curves(found, cascade=cascade).items():
        drawn = frontier(points)
        colour, line = _STYLE[name]
        axes.plot(
            [p.size_bytes for p in drawn],
            [100 * p.accuracy for p in drawn],
            line,
            color=colour,
            label=name,
            markersize=4,
        )
    axes.set_xscale("log")
    axes.set_xlabel("mean bytes of a message up, over all images (log)")
    axes.grid(visible=True, alpha=0.3)


def draw(found: dict[str, Any], path: Path) -> None:
    """The picture at `path`: every image sent, and only those that the device does not answer."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, cascade=False)
    _panel(right, found, cascade=True)
    left.set_ylabel("accuracy, %")
    left.set_title("every image sent")
    right.set_title("the device answers what it is sure of")
    left.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
