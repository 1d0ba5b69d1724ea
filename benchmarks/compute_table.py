"""`benchmarks/results/compute.json` as a section of docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.table import table, verdict


def _exits(cascades: Sequence[dict[str, Any]]) -> str:
    seeds = ", ".join(str(c["seed"]) for c in cascades)
    rows = [
        (
            k,
            f"{found['flops'] / 1e6:.2f}",
            ", ".join(f"{100 * c['exits'][k]['accuracy']:.2f}" for c in cascades),
        )
        for k, found in enumerate(cascades[0]["exits"])
    ]
    return table(("exit", "MFLOPs to leave there", f"accuracy alone, %, seeds {seeds}"), rows)


def _cascades(cascades: Sequence[dict[str, Any]]) -> str:
    rows = []
    for c in cascades:
        drop, low, high = (100 * c["drop"][key] for key in ("value", "low", "high"))
        rows.append(
            (
                c["seed"],
                f"{100 * c['exits'][-1]['accuracy']:.2f}",
                f"{100 * c['accuracy']:.2f}",
                f"{drop:.2f} [{low:.2f}, {high:.2f}]",
                f"{c['mean_flops'] / 1e6:.2f}",
                f"{c['saved']:.1%} ({c['saved_with_heads']:.1%})",
                ", ".join(f"{100 * share:.1f}" for share in c["shares"]),
            )
        )
    drop, saved = "drop, points [95 %]", "saved (with heads)"
    headings = ("seed", "last exit, %", "cascade, %", drop, "mean MFLOPs", saved)
    return table((*headings, "leaving at each exit, %"), rows)


def _plain(found: dict[str, Any]) -> str:
    if not found["plain"]:
        return "The networks without exits were not measured."
    pairs = zip(found["cascades"], found["plain"], found["summary"]["gains"], strict=True)
    rows = [
        (
            c["seed"],
            f"{100 * c['accuracy']:.2f}",
            f"{c['mean_flops'] / 1e6:.2f}",
            f"{100 * p['accuracy']:.2f}",
            f"{p['flops'] / 1e6:.2f}",
            f"{100 * gain:+.2f}",
        )
        for c, p, gain in pairs
    ]
    plain = ("network without exits, %", "its MFLOPs", "gain, points")
    return table(("seed", "cascade, %", "its mean MFLOPs", *plain), rows)


def _bars(summary: dict[str, Any]) -> str:
    saved = f"{summary['saved']:.1%} at {100 * summary['drop']:.2f} points"
    rows = [
        (
            "FLOPs saved, of the network without heads, and the drop",
            saved,
            "at least 50 % at no more than 0.5 points",
            verdict(summary["saves_enough"]),
        )
    ]
    if "gain" in summary:
        spread = summary["gain_spread"]
        more = "" if spread is None else f", standard deviation {100 * spread:.2f}"
        gain = f"{100 * summary['gain']:+.2f} points{more}"
        what = "cascade over a network without exits"
        rows.append((what, gain, "at least 0", verdict(summary["beats_plain"])))
    return table(("what", "mean of the seeds", "bar", ""), rows)


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found, summary = record["found"], record["found"]["summary"]
    without = found["cascades"][0]["flops_without_heads"] / 1e6
    said = (
        f"`{record['command']}`: networks of `benchmarks/configs/cifar10_exits.toml` and, without early exits, of "
        "`benchmarks/configs/cifar10_plain.toml`, one a seed, as bundles under onnxruntime. "
        "Temperatures and thresholds are fitted on the images held out of training, for a drop of "
        f"{100 * found['max_drop']:g} points there: fixed before these networks met a test image, but after an earlier "
        "network, since replaced, had been seen to fall further on test images than on those held out. All below is on "
        f"{found['test_images']:,} test images. Without early heads the whole network takes {without:.2f} MFLOPs."
    )
    parts = [said, _exits(found["cascades"]), _cascades(found["cascades"]), _plain(found)]
    if summary.get("plain_has_as_many_flops") is False:
        parts.append("The networks without exits have fewer FLOPs than the cascades take here.")
    return "\n\n".join([*parts, _bars(summary)])
