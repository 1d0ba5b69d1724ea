"""The demo's figures as a picture: who answered, what it cost in bytes, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from offramp.cli.live import TITLES
from offramp.evaluation.comparison import ArmResult

_TIERS = {"device": "#2a9d8f", "fog": "#e9c46a", "cloud": "#e76f51"}
_OURS, _OTHERS = "#264653", "#9aa5ab"


def draw(results: Mapping[str, ArmResult], path: Path) -> None:
    """Write a PNG of three panels."""
    figure, (shares, bytes_up, latency) = plt.subplots(
        1, 3, figsize=(13, 3.8), width_ratios=(1, 1.2, 1.2), layout="constrained"
    )
    _draw_shares(shares, results["three_tier"])
    _draw_bytes(bytes_up, results)
    _draw_latency(latency, results)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_shares(axes: Axes, three: ArmResult) -> None:
    tiers = three.run.tiers
    bars = axes.bar(
        list(tiers), [100 * f.share for f in tiers.values()], color=[_TIERS[t] for t in tiers]
    )
    texts = [
        f"{f.share:.1%}\n{f.accuracy:.1%} right" if f.accuracy is not None else "0 %"
        for f in tiers.values()
    ]
    axes.bar_label(bars, texts, padding=2)
    axes.set(title="Who answered", ylabel="% of images", ylim=(0, 112))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bytes(axes: Axes, results: Mapping[str, ArmResult]) -> None:
    for name, result in results.items():
        overall = result.run.overall
        if overall.accuracy is None:
            continue
        colour = _OURS if name == "three_tier" else _OTHERS
        axes.scatter(overall.bytes_up, 100 * overall.accuracy, s=70, color=colour, zorder=3)
        axes.annotate(
            TITLES[name],
            (overall.bytes_up, 100 * overall.accuracy),
            xytext=(0, -14) if name == "three_tier" else (0, 8),
            textcoords="offset points",
            ha="left" if overall.bytes_up < 10 else "right" if name == "plain_split" else "center",
            fontsize=8,
            color=colour,
        )
    axes.set_xscale("symlog", linthresh=10)
    axes.set(
        title="Accuracy against bytes",
        xlabel="bytes up an image, all links",
        ylabel="accuracy, %",
        xlim=(-1, 20_000),
    )
    axes.margins(y=0.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_latency(axes: Axes, results: Mapping[str, ArmResult]) -> None:
    rows = list(results.items())[::-1]
    for row, (name, result) in enumerate(rows):
        times = (result.alone or result.run).overall
        p50, p95, p99 = (value or 0.0 for value in (times.p50_ms, times.p95_ms, times.p99_ms))
        colour = _OURS if name == "three_tier" else _OTHERS
        axes.plot([p50, p99], [row, row], color=colour, lw=2)
        axes.scatter([p50, p95, p99], [row] * 3, color=colour, s=(60, 25, 25), zorder=3)
    axes.set_yticks(range(len(rows)), [TITLES[name] for name, _ in rows], fontsize=8)
    how = "1 in flight" if results["three_tier"].alone else "over the links"
    axes.set(title=f"Latency, {how}", xlabel="ms at the client: p50 (large), p95, p99")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
