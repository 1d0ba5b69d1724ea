"""Accuracy against bytes: codecs as points, image formats as curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_CURVES = {
    "WebP": ("webp", "file", "#e76f51"),
    "JPEG without header": ("jpeg", "without header", "#e9c46a"),
    "JPEG": ("jpeg", "file", "#9aa5ab"),
}
_FORMS = {"packed": "s", "entropy-coded": "o"}


def draw(content: dict[str, Any], path: Path) -> None:
    """Write a PNG of one panel."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    rows = content["rows"]
    for label, (kind, form, colour) in _CURVES.items():
        points = sorted(
            (row["bytes"], 100 * row["test"])
            for row in rows
            if row["name"].startswith(f"{kind}_q") and row["form"] == form
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=label)
    for form, marker in _FORMS.items():
        points = [
            (row["bytes"], 100 * row["test"])
            for row in rows
            if row["name"].startswith("codec") and row["form"] == form
        ]
        axes.scatter(*zip(*points, strict=True), marker=marker, label=f"codec, {form}", zorder=3)
    plain = next(one for one in content["networks"] if one["name"] == "plain")
    axes.axhline(100 * plain["test"][-1], color="#264653", linestyle=":", label="without codec")
    axes.set(xscale="log", xlabel="bytes a message", ylabel="accuracy of the last exit, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
