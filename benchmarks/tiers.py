"""Three tiers on this machine over all test images of Fashion-MNIST, beside the baselines.

python -m benchmarks.tiers [--bundle FOLDER] [--data FOLDER] [--images N]

What `offramp demo --json` measures, with the network's own table and the bars of the shipped bundle. Only what was
measured over all images of that bundle is kept. Exit code 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import record
from benchmarks.table import table, verdict
from offramp import data
from offramp.bundle import Bundle, load_bundle
from offramp.evaluation.comparison import as_json, compare
from offramp.wire import encode_image

EXAMPLE = Path("examples/fashion_mnist")
COMMAND = "python -m benchmarks.tiers"
_TIERS = ("device", "fog", "cloud")
_NAMES = {
    "first_exit": "first exit only",
    "plain_split": "plain split, exits off",
    "all_device": "all on the device",
    "cloud_png": "cloud only, PNG",
    "cloud_jpeg": "cloud only, JPEG q75",
}


def network_rows(bundle: Bundle) -> list[dict[str, Any]]:
    """What each stage costs, and how right its exit was on the images held out, as its training said."""
    scores = bundle.manifest.provenance.get("scores", {})
    return [
        {
            "flops": cost.flops + cost.head_flops + cost.codec_flops,
            "parameters": cost.parameters + cost.head_parameters + cost.codec_parameters,
            "boundary_bytes": cost.boundary_bytes,
            "held_out_accuracy": scores.get(f"validation/accuracy_{k}"),
        }
        for k, cost in enumerate(bundle.manifest.costs)
    ]


def bars(
    figures: dict[str, Any], network: Sequence[dict[str, Any]], png_bytes: float
) -> list[dict[str, Any]]:
    """What the shipped bundle has to reach, and what it does."""
    overall, tiers, baselines = figures["overall"], figures["tiers"], figures["baselines"]
    last, drop = (
        baselines["plain_split"]["accuracy"],
        baselines["plain_split"]["accuracy"] - overall["accuracy"],
    )
    message, up = tiers["device"]["one_in_flight"]["bytes_up_per_sent"], tiers["device"]["bytes_up"]
    raw = network[0]["boundary_bytes"]
    rows = (
        ("last exit", f"{last:.2%}", "at least 93.5 %", last >= 0.935),
        (
            "three tiers, below the last exit",
            f"{100 * drop:.2f} points",
            "at most 0.3",
            drop <= 0.003,
        ),
        (
            "answered by the device",
            f"{tiers['device']['share']:.1%}",
            "at least 65 %",
            tiers["device"]["share"] >= 0.65,
        ),
        (
            "answered by the cloud",
            f"{tiers['cloud']['share']:.1%}",
            "at most 15 %",
            tiers["cloud"]["share"] <= 0.15,
        ),
        (
            "a message up from the device, one image each",
            f"{message:.0f} bytes, {message / png_bytes:.0%} of the mean PNG ({png_bytes:.0f})",
            "under 45 %",
            message < 0.45 * png_bytes,
        ),
        (
            "bytes up an image, device's link",
            f"{up:.1f}: {raw / up:.0f} times under the raw {raw}",
            "at most 40, over 20 times",
            up <= 40 and raw / up > 20,
        ),
        ("degraded answers", str(overall["degraded"]), "0", overall["degraded"] == 0),
    )
    return [dict(zip(("what", "found", "bar", "holds"), row, strict=True)) for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    alone = figures["one_in_flight"]
    times = (
        f"{_number(figures[key])} ({_number(alone[key])})" for key in ("p50_ms", "p95_ms", "p99_ms")
    )
    accuracy = "-" if figures["accuracy"] is None else f"{100 * figures['accuracy']:.2f}"
    moved = (figures["bytes_up"], figures["bytes_down"], alone["bytes_up_per_sent"])
    return (name, f"{100 * figures['share']:.1f}", accuracy, *times, *map(_number, moved))


def _network(found: dict[str, Any]) -> str:
    rows = []
    for k, stage in enumerate(found["network"]):
        held = stage["held_out_accuracy"]
        rows.append(
            (
                k,
                _TIERS[min(k, 2)],
                f"{stage['flops'] / 1e6:.1f} M",
                f"{stage['parameters'] / 1e3:.0f} k",
                stage["boundary_bytes"],
                "-" if held is None else f"{held:.2%}",
            )
        )
    boundary = "payload into it, bytes"
    return table(
        ("stage", "tier", "FLOPs", "parameters", boundary, "accuracy of its exit, held out"), rows
    )


def _remarks(figures: dict[str, Any]) -> str:
    """What the baselines say for and against a split, from the numbers."""
    three, local, split = (
        figures["overall"],
        figures["baselines"]["all_device"],
        figures["baselines"]["plain_split"],
    )
    ratio = split["bytes_up"] / three["bytes_up"] if three["bytes_up"] else float("inf")
    faster = local["one_in_flight"]["p95_ms"] < three["one_in_flight"]["p95_ms"]
    return (
        "Reading the baselines honestly: every stage on the device costs no bytes and is right "
        f"{100 * local['accuracy']:.2f} % of the time; its p95 with one image in flight is "
        f"{'under' if faster else 'over'} that of the three tiers, which share the machine's cores. A split pays where "
        "the device cannot hold or run the whole network, or where the deeper part changes more often than the device "
        f"can be updated. The exits send {ratio:.1f} times fewer bytes up than the plain split."
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    figures = found["figures"]
    ways = [_row(name, figures["tiers"][name]) for name in _TIERS]
    ways.append(_row("**three tiers, with exits**", figures["overall"]))
    ways += [_row(_NAMES[name], result) for name, result in figures["baselines"].items()]
    times = tuple(f"{p}, ms (1 in flight)" for p in ("p50", "p95", "p99"))
    headings = ("", "share, %", "right, %", *times, "bytes up", "down", "message up")
    checks = [
        (bar["what"], bar["found"], bar["bar"], verdict(bar["holds"])) for bar in found["bars"]
    ]
    said = (
        f"`{record['command']}`: the shipped bundle as three processes, {found['images']:,} test images, one a "
        "request, closed loop with 8 in flight, and in brackets with 1. Bytes are of whole messages, averaged over "
        "all images, of all links."
    )
    reached = table(("what", "found", "bar", ""), checks)
    parts = (said, _network(found), table(headings, ways), reached, _remarks(figures))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where every bar holds."""
    parser = argparse.ArgumentParser(COMMAND, description=__doc__)
    parser.add_argument("--bundle", type=Path, default=EXAMPLE / "bundle")
    parser.add_argument("--data", type=Path, default=EXAMPLE, help="the folder of the test files")
    parser.add_argument("--images", type=int, help="the first so many (default: all)")
    args = parser.parse_args(argv)
    bundle = load_bundle(args.bundle)
    test = data.load("fashion-mnist", "test", args.data)
    images, labels = test.images[: args.images], test.labels[: args.images]
    png_bytes = mean(len(encode_image(image, "image/png")) for image in images)
    figures = as_json(bundle, compare(bundle, images, labels))
    network = network_rows(bundle)
    reached = bars(figures, network, png_bytes)
    found = {
        "images": len(images),
        "network": network,
        "figures": figures,
        "bars": reached,
    }
    print(markdown({"command": COMMAND, "found": found}))
    if args.bundle == EXAMPLE / "bundle" and len(images) == len(test):
        path = record.write("tiers", found, command=COMMAND, data=test.sha256)
        print(f"\n{path} written")
    return 0 if all(bar["holds"] for bar in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
