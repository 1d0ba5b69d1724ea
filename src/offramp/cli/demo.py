"""`offramp demo`: the whole of it on this machine, on real images, beside the baselines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from offramp.errors import InvalidInput


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
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="the first N only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them there, as PNG")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start the tiers, send the images through every arm, print one table."""
    try:
        from offramp.cli.live import LiveView, table
    except ModuleNotFoundError as exc:
        raise InvalidInput("demo", f"needs the extra `demo` ({exc.name} is missing)") from exc
    from offramp.bundle import load_bundle
    from offramp.data import load
    from offramp.evaluation.comparison import arms, as_json, compare

    if arguments.images < 1:
        raise InvalidInput("--images", f"{arguments.images} is not at least 1")
    for option in (arguments.json, arguments.picture):
        if option and not option.absolute().parent.is_dir():
            raise InvalidInput(str(option), "its folder does not exist")
    bundle = load_bundle(arguments.bundle)
    test = load("fashion-mnist", "test", arguments.data)
    images, labels = test.images[: arguments.images], test.labels[: arguments.images]
    names = [arm.name for arm in arms(len(bundle.manifest.network.stages))]
    with LiveView(names, labels) as view:
        results = compare(bundle, images, labels, watch=view.saw)
    view.console.print(table(results, len(images)))
    for name, result in results.items():
        if result.run.degraded:
            sys.stderr.write(f"offramp: {name}: {result.run.degraded} answers were degraded\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(bundle, results), indent=2) + "\n")
    if arguments.picture:
        from offramp.cli.picture import draw

        draw(results, arguments.picture)
        sys.stderr.write(f"offramp: drew {arguments.picture}\n")
    return 0
