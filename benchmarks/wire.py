"""What a first boundary costs on the wire, and what it is worth: learned codecs beside the image itself.

python -m benchmarks.wire --base RUN [--data FOLDER] [--runs DIR] [--only NAME ...]

CIFAR-10 (JPEG q75 copy), the network of benchmarks/configs/cifar10_exits.toml, one sample a message. From the weights
of the base run every variant is trained on for the same four epochs: the network as it is, with a codec at its first
boundary, and on images that went through WebP or JPEG. Settings are chosen by the held-out images; the test images
are for the report. `--only` trains and scores these variants and writes no result; what is done is not done again.
Exit code 1 where a bar is broken: at most 256 bytes a message at no more than 1.0 point under the same network
without codec, 0.5 at 512 bytes, and codecs above the curves of the network on WebP and on JPEG without its header.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.table import table, verdict
from benchmarks.wire_bars import beaten, result
from benchmarks.wire_plot import draw
from benchmarks.wire_runs import EPOCHS, VARIANTS, Variant, taken, trained
from benchmarks.wire_scores import Found, score
from offramp import data
from offramp.errors import InvalidInput
from offramp.training import open_run
from offramp.training.fit import CHECKPOINT

MODULE = "benchmarks.wire"
PICTURE = Path("docs/img/wire.png")


def units(variants: Sequence[Variant], args: argparse.Namespace) -> list[Found]:
    """The scores of these variants, those left out that another process is at.

    Raises InvalidInput where one began with the weights of another base run.
    """
    open_run(args.base)
    base = hashlib.sha256((args.base / CHECKPOINT).read_bytes()).hexdigest()
    original = data.load("cifar10-jpeg", "test", args.data).images
    found = []
    for variant in variants:
        folder = args.runs / variant.name
        with taken(folder) as free:
            path = folder / "score.json"
            if not free:
                continue
            if not path.exists():
                run = trained(variant, args.runs, args.base, args.data)
                scores = score(variant, run, original, args.data)
                path.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
            found.append(json.loads(path.read_text(encoding="utf-8")))
            if found[-1]["weights_from"] != base:
                raise InvalidInput("--runs", f"{folder} began with another run than {args.base}")
    return found


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _row(row: Found, plain: float) -> tuple[str, ...]:
    times = f"{row['encode_us']} / {row['decode_us']}" if "encode_us" in row else ""
    under = f"{100 * (row['test'] - plain):+.2f}"
    name = f"{row['name']}, {row['form']}"
    return (
        name,
        f"{row['bytes']:,.1f}",
        f"{row['largest_bytes']:,}",
        _percent(row["test"]),
        under,
        times,
    )


def markdown(content: dict[str, Any]) -> str:
    """The section of docs/results.md."""
    found = content["found"]
    plain = next(one for one in found["networks"] if one["name"] == "plain")
    rows = sorted(found["rows"], key=lambda row: row["bytes"])
    headings = (
        "what travels",
        "bytes, mean",
        "largest",
        "accuracy",
        "points over plain",
        "us, to write / read",
    )
    bars = (
        (
            bar["what"],
            f"{bar['name']}: {bar['bytes']:.0f} bytes, the largest {bar['largest_bytes']}"
            if bar.get("name")
            else "",
            _percent(bar["found"]),
            _percent(bar["bar"]),
            verdict(bar["holds"]),
        )
        for bar in found["bars"]
    )
    below = [c for c in found["above"] if c["above"] < 0]
    remark = (
        "Below a curve: "
        + ", ".join(
            f"{c['name']} {c['form']} ({c['curve']}, {100 * c['above']:.2f})" for c in below
        )
        + "."
        if below
        else f"All {len(found['above'])} codecs within a curve's range lie above it."
    )
    lost = beaten(rows)
    if lost:
        remark += " An image is no larger and no less accurate than: " + ", ".join(
            f"{codec['name']} {codec['form']} ({image['name']}, {image['form']})"
            for codec, image in lost
        )
        remark += ". The images are copies that were saved as JPEG q75, so that jpeg_q75 is nearly what they are."
    about = (
        "CIFAR-10 (JPEG q75 copy), accuracy of the last exit on the 5,000 test images, first boundary (32x16x16), one "
        "sample a message, gRPC's 5 bytes included. The network without codec has "
        f"{_percent(plain['test'][-1])}, its first exit {_percent(plain['test'][0])}; each row is a network of its "
        f"own, trained on for the same {EPOCHS} epochs."
    )
    parts = (
        f"`{content['command']}`",
        about,
        "![accuracy against bytes](img/wire.png)",
        table(headings, (_row(row, plain["test"][-1]) for row in rows)),
        table(("bar", "chosen", "found", "bar", ""), bars),
        remark,
    )
    return "\n\n".join(parts)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("runs/cifar10_exits_1"))
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/wire"), help="where the variants train"
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("OFFRAMP_DATA"))
    parser.add_argument("--only", nargs="+", choices=[v.name for v in VARIANTS], metavar="NAME")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, score, write; 0 where every bar holds, 1 where one does not, 2 for wrong input."""
    args = _arguments(argv)
    args.data = None if args.data is None else Path(args.data)
    wanted = [v for v in VARIANTS if args.only is None or v.name in args.only]
    try:
        found = units(wanted, args)
    except InvalidInput as exc:
        print(exc, file=sys.stderr)
        return 2
    if args.only is not None:
        return 0
    if len(found) < len(wanted):
        print(
            f"{len(wanted) - len(found)} variants are under way in other processes", file=sys.stderr
        )
        return 2
    content = result(found)
    path = record.write(
        "wire",
        content,
        command=record.command(MODULE, argv),
        data=found[0]["sha256"],
        seeds=[1],
        packages=("pillow", "zstandard"),
    )
    draw(content, PICTURE)
    print(markdown(record.read("wire")))
    print(f"{path}, {PICTURE}", file=sys.stderr)
    return 0 if all(bar["holds"] for bar in content["bars"] if bar["judged"]) else 1


if __name__ == "__main__":
    sys.exit(main())
