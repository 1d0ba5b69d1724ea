"""Whether the committed bundle says what PyTorch says, on all test images.

python -m benchmarks.parity [--bundle FOLDER] [--run RUN] [--images N] [--batch N] | --zoo

Per stage on equal inputs, then end to end, then three tiers as real processes against the reference in this
process; exit code 1 where a rule (of `offramp.export.parity`, of `offramp.evaluation.agreement`) is broken. Without
--run the PyTorch network is rebuilt from the bundle itself. --zoo is about other networks (benchmarks/parity_zoo.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import parity_zoo, record
from benchmarks.table import table, verdict
from offramp import Client, data
from offramp.bundle import Bundle, load_bundle
from offramp.data import ImageSet
from offramp.errors import InvalidInput
from offramp.evaluation.agreement import Difference, differences, ties
from offramp.evaluation.deployment import Deployment
from offramp.evaluation.reference import answer, run_stages
from offramp.export.parity import FLIPPED_SHARE, STEP_REACH, TOLERANCE, Parity, compare
from offramp.export.restore import open_bundle
from offramp.models import ExitNetwork
from offramp.training import open_run

Row = tuple[str, str, str, bool]  # what, found, bar, whether it holds

EXAMPLE = Path("examples/fashion_mnist")  # its test images are committed beside its bundle
BUNDLE = EXAMPLE / "bundle"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--run", type=Path, help="take the PyTorch network from this run")
    parser.add_argument("--images", type=int, help="test images, the first so many (default: all)")
    parser.add_argument("--batch", type=int, default=32, help="of onnxruntime (default: 32)")
    parser.add_argument("--data", type=Path, help="where the data set's files lie")
    parser.add_argument("--zoo", action="store_true", help="other networks, each with two exits")
    return parser.parse_args(argv)


def rows_of(parity: Parity) -> list[Row]:
    """A table of the comparison with PyTorch."""
    rows: list[Row] = []
    for k, stage in enumerate(parity.stages):
        rows.append(
            (
                f"stage {k}, equal inputs: largest error",
                f"{stage.worst:.1e}",
                f"{TOLERANCE:.0e}",
                stage.worst <= TOLERANCE,
            )
        )
        if stage.codes:
            codes = f"{stage.flips} at a step, {stage.violations} elsewhere, of {stage.codes:,}"
            bar = f"0 beyond {STEP_REACH:.0e}"
            rows.append((f"stage {k}, equal inputs: codes that differ", codes, bar, stage.holds))
    share = parity.flipped / parity.images
    return [
        *rows,
        (
            "end to end: images with a flipped code",
            f"{parity.flipped} of {parity.images:,} ({share:.2%})",
            f"{FLIPPED_SHARE:.0%}",
            share <= FLIPPED_SHARE,
        ),
        (
            "end to end: largest error of all others",
            f"{parity.worst:.1e}",
            f"{TOLERANCE:.0e}",
            parity.worst <= TOLERANCE,
        ),
    ]


def at_a_step(network: ExitNetwork, images: NDArray[np.uint8]) -> list[bool]:
    """Of each image, whether some level lies within STEP_REACH of where rounding turns."""
    with torch.inference_mode():
        levels = [level for level in network(torch.from_numpy(images)).levels if level is not None]
    near = [(level.frac() - 0.5).abs().flatten(1).amin(1) <= STEP_REACH for level in levels]
    return torch.stack(near).any(0).tolist() if near else [False] * len(images)


def excused(
    found: Sequence[Difference], network: ExitNetwork, images: NDArray[np.uint8]
) -> tuple[str, bool]:
    """The differences as text, and whether each is a flip or a tie."""
    if not found:
        return "0", True
    steps = at_a_step(network, images[[difference.image for difference in found]])
    excuses = ["tie" if d.tied else "flip" if s else "" for d, s in zip(found, steps, strict=True)]
    listed = (f"#{d.image} {e or 'BROKEN'}" for d, e in zip(found, excuses, strict=True))
    return f"{len(found)}: {', '.join(listed)}", all(excuses)


def deployment_rows(network: ExitNetwork, bundle: Bundle, images: NDArray[np.uint8]) -> list[Row]:
    """A table of the three-tier deployment against the reference, at batch 1 and 32 on both sides."""
    policy = bundle.manifest.policies[0]
    references = {batch: run_stages(bundle, images, batch=batch) for batch in (1, 32)}
    last = len(bundle.manifest.network.stages) - 1
    rows: list[Row] = []
    with Deployment(bundle.folder, {"device": 0, "fog": min(1, last), "cloud": last}) as tiers:
        for in_flight in (1, 32):
            with Client(tiers.device) as client:
                deployed = list(client.infer_many(list(images), in_flight=in_flight))
            for batch, reference in references.items():
                answers = answer(policy, reference.logits)
                found = differences(deployed, answers, ties(policy, reference))
                text, holds = excused(found, network, images)
                what = f"three tiers, {in_flight} in flight, reference at batch {batch}: answers that differ"
                rows.append((what, text, "flips, ties", holds))
    return rows


def _print(rows: Sequence[Row]) -> None:
    widths = [max(len(str(row[column])) for row in rows) for column in range(3)]
    for what, found, bar, holds in rows:
        said = "ok" if holds else "BROKEN"
        print(f"{what:<{widths[0]}}  {found:>{widths[1]}}  bar {bar:<{widths[2]}}  {said}")


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rows = [(row["what"], row["found"], row["bar"], verdict(row["holds"])) for row in found["rows"]]
    said = (
        f"`{record['command']}`: onnxruntime against PyTorch on {found['images']:,} test images, then three processes "
        "against the in-process reference."
    )
    return f"{said}\n\n{table(('what', 'found', 'bar', ''), rows)}"


def _keep(rows: Sequence[Row], images: ImageSet, bundle: Bundle) -> None:
    """Write what was found of the whole test set of the shipped bundle."""
    keys = ("what", "found", "bar", "holds")
    found = {
        "network": bundle.digest,
        "images": len(images),
        "rows": [dict(zip(keys, row, strict=True)) for row in rows],
    }
    command = "python -m benchmarks.parity"
    path = record.write("parity", found, command=command, data=images.sha256)
    print(f"{path} written")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; 0 where every row holds, 1 where one does not, 2 for wrong input."""
    args = _arguments(argv)
    try:
        if args.zoo:
            return parity_zoo.run(args.data)
        bundle = load_bundle(args.bundle)
        trained = open_run(args.run) if args.run else open_bundle(bundle)
        folder = args.data or (EXAMPLE if args.bundle == BUNDLE else None)
        test = data.load(trained.recipe.data.name, "test", folder)
        images = test.images[: args.images]
        rows = rows_of(compare(trained.network, bundle, images, batch=args.batch))
        rows += deployment_rows(trained.network, bundle, images)
    except InvalidInput as exc:
        print(exc, file=sys.stderr)
        return 2
    _print(rows)
    if args.bundle == BUNDLE and len(images) == len(test):
        _keep(rows, test, bundle)
    return 0 if all(holds for *_, holds in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
