"""`offramp demo`: the whole of it on this machine, on real images, beside the baselines.

offramp demo                              10,000 images over loopback
offramp demo --profile 5g-mmwave-drive    fewer, with an emulated link between device and fog, another from fog to cloud
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp.cli import demo_links
from offramp.cli.outputs import check_output, check_picture
from offramp.errors import InvalidInput

if TYPE_CHECKING:
    from offramp.bundle import Bundle
    from offramp.cli.live import LiveView, Shown

_IMAGES = 10_000


def add(verbs: Any) -> None:
    """Register the verb."""
    parser = verbs.add_parser("demo", help="three tiers on this machine, on real images")
    parser.add_argument("--bundle", type=Path, default=Path("examples/fashion_mnist/bundle"))
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("examples/fashion_mnist"),
        help="the folder of the Fashion-MNIST test files",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help=f"the first N only (all; over links {demo_links.IMAGES})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them there, as PNG")
    demo_links.add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start the tiers, send the images through every arm, print one table."""
    try:
        from offramp.cli.live import LiveView
    except ModuleNotFoundError as exc:
        raise InvalidInput("demo", f"needs the extra `demo` ({exc.name} is missing)") from exc
    from offramp.bundle import load_bundle
    from offramp.data import load
    from offramp.evaluation.comparison import arms

    _check(arguments)
    rehearsal = demo_links.rehearsal_of(arguments)
    bundle = load_bundle(arguments.bundle)
    test = load("fashion-mnist", "test", arguments.data)
    count = arguments.images or (demo_links.IMAGES if rehearsal else _IMAGES)
    images, labels = test.images[:count], test.labels[:count]
    all_arms = arms(len(bundle.manifest.network.stages))
    view = LiveView([arm.name for arm in all_arms], labels)
    if rehearsal is None:
        shown = _over_loopback(bundle, images, labels, view)
    else:
        line = demo_links.announcement(rehearsal, len(images), len(test))
        sys.stderr.write(f"offramp: {line}\n")
        shown = demo_links.over_links(bundle, images, labels, all_arms, rehearsal, view)
    view.console.print(shown.table)
    for remark in shown.remarks:
        sys.stderr.write(f"offramp: {remark}\n")
    _write(arguments, shown)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.images is not None and arguments.images < 1:
        raise InvalidInput("--images", f"{arguments.images} is not at least 1")
    if arguments.json:
        check_output("--json", arguments.json)
    if arguments.picture:
        check_picture("--picture", arguments.picture)


def _over_loopback(
    bundle: Bundle, images: NDArray[Any], labels: NDArray[np.int64], view: LiveView
) -> Shown:
    from offramp.cli.live import Shown, table
    from offramp.evaluation.comparison import as_json, compare

    with view:
        results = compare(bundle, images, labels, watch=view.saw)
    remarks = [
        f"{name}: {result.run.degraded} answers were degraded"
        for name, result in results.items()
        if result.run.degraded
    ]
    return Shown(results, table(results, len(images)), as_json(bundle, results), remarks)


def _write(arguments: argparse.Namespace, shown: Shown) -> None:
    if arguments.json:
        arguments.json.write_text(json.dumps(shown.figures, indent=2) + "\n")
    if arguments.picture:
        from offramp.cli.picture import draw

        draw(shown.results, arguments.picture)
        sys.stderr.write(f"offramp: drew {arguments.picture}\n")
