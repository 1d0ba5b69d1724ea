"""Latency by profile: each arm's p50, p95 and p99 on a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.profiles_table import NAMES, arms_of

_COLOURS = {
    "three_tier": "#264653",
    "certified": "#2a9d8f",
    "first_exit": "#c7ced2",
    "all_device": "#9aa5ab",
    "plain_split": "#e9c46a",
    "cloud_png": "#f4a261",
    "cloud_jpeg": "#e76f51",
}


def draw(found: dict[str, Any], path: Path) -> None:
    """Write a PNG of one panel: a group of lines a profile."""
    profiles = list(found["profiles"])
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.8 * len(profiles)), layout="constrained")
    for row, profile in enumerate(profiles):
        results = arms_of(found, profile)
        for place, (name, arm) in enumerate(results.items()):
            height = row + 0.8 * (place + 0.5) / len(results) - 0.4
            times = [arm["p50_ms"], arm["p95_ms"], arm["p99_ms"]]
            label = NAMES[name] if row == 0 else None
            axes.plot(times, [height] * 3, color=_COLOURS[name], lw=1.5, label=label)
            axes.scatter(times, [height] * 3, s=(36, 14, 14), color=_COLOURS[name], zorder=3)
    axes.axvline(1e3 * found["deadline_s"], color="#999999", lw=1, ls=":")
    axes.set_yticks(range(len(profiles)), profiles)
    axes.set(xscale="log", xlabel="ms at the client: p50 (large), p95, p99; dotted: the deadline")
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
