"""`benchmarks/results/regimes.json` as a section of docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

_HEAD = "| regime | exit 0 | exit 1 | last exit | cascade | FLOPs saved | CPU s of training |"


def _spread(values: Sequence[float], scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
    """Mean and standard deviation over the seeds."""
    spread = stdev(values) * scale if len(values) > 1 else 0.0
    return f"{mean(values) * scale:{sign}.{digits}f} ± {spread:.{digits}f}"


def _row(row: dict[str, Any]) -> str:
    seeds = row["seeds"]
    exits = len(row["flops"])
    early = [_spread([s["accuracy"][k] for s in seeds], 100) for k in range(exits - 1)]
    cells = [
        row["name"],
        *(early or ["", ""]),
        _spread([s["accuracy"][-1] for s in seeds], 100),
        _spread([s["cascade_accuracy"] for s in seeds], 100) if early else "",
        _spread([s["flops_saved"] for s in seeds], 100, 1) if early else "",
        "as above" if row["variant"] else _spread([s["cpu_s"] for s in seeds], 1, 0),
    ]
    return f"| {' | '.join(cells)} |"


def _bar(found: dict[str, Any]) -> str:
    names = {row["config"]: row["name"] for row in reversed(found["rows"])}  # the first of each
    said = [
        f"{names[config]}: {_spread(values, 100, 2, '+')} points ({', '.join(f'{v * 100:+.2f}' for v in values)})"
        for config, values in found["first_exit_gain_over_joint"].items()
    ]
    verdict = "met" if found["passes"] else "not met"
    return (
        "At the first exit, against plain joint training of the same seed, mean and standard deviation: "
        f"{'; '.join(said)}. The bar, that distillation or adaptive weights are better there, is {verdict}."
    )


def _exceptions(found: dict[str, Any]) -> str:
    """Which cascades fell by more on the test images than was allowed on those held out."""
    over = [
        f"{row['name']} ({mean(drops) * 100:.2f})"
        for row in found["rows"]
        if (drops := [s["accuracy"][-1] - s["cascade_accuracy"] for s in row["seeds"]])
        and mean(drops) > found["max_drop"]
    ]
    if not over:
        return "No cascade fell by more than that on the test images, in the mean over the seeds."
    return f"More than that fell on the test images, in points, mean over the seeds: {', '.join(over)}."


def markdown(record: dict[str, Any]) -> str:
    """The table, what the bar came to, and how it was made."""
    found = record["found"]
    by_config = {row["config"]: row for row in found["rows"]}
    flops, plain = by_config["joint"]["flops"], by_config["none"]["flops"][-1]
    shares = ", ".join(f"{f / plain:.0%}" for f in flops)
    drop = found["max_drop"] * 100
    intro = (
        f"Fashion-MNIST, one network of {plain / 2e6:.1f} million multiply-accumulates with exits after {shares} of "
        f"its FLOPs (heads included), {found['epochs']} epochs in all, seeds {', '.join(map(str, record['seeds']))}. "
        "Accuracy in per cent of the 10,000 test images, mean ± standard deviation over the seeds. Cascade: thresholds "
        f"that save the most FLOPs within {drop:g} point of the last exit on the 6,000 images held out of training; "
        "saved is against the network without exits."
    )
    remarks = (
        f"{_exceptions(found)} Training time is the CPU time of one process with {found['threads']} thread(s), the "
        "validation after each epoch included. The recipes are without augmentation, and by-loss weights "
        "are among them, since an earlier round of which some test scores of seed 1 had been read: both on "
        "held-out accuracy under another seed, but not blind to that round."
    )
    table = [_HEAD, "|---|---|---|---|---|---|---|", *map(_row, found["rows"])]
    parts = (intro, "\n".join(table), _bar(found), remarks, f"    {record['command']}")
    return "\n\n".join(parts)
