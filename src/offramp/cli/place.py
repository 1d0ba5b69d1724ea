"""`offramp place RECIPE`: where a recipe's backbone can have exits, and where it has them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from offramp.cli.extra import needs_extra


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "place",
        help="show where exits can be, and where a recipe has them",
        description="List the submodules behind which nothing but their own features is needed, with "
        "the share of the backbone's FLOPs up to each, and mark those where the recipe has an exit.",
    )
    parser.add_argument("recipe", type=Path, help="TOML file with [[exits]] or [placement]")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the data set's files lie"
    )
    parser.add_argument("--json", action="store_true", help="print a machine-readable table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a row a place."""
    with needs_extra("place", "train"):
        from offramp.training.run import plan
    planned = plan(arguments.recipe, arguments.data)
    if arguments.json:
        print(json.dumps(planned, indent=2))
        return 0
    print(f"{'':1} {'share':>6}  {'MFLOPs':>9}  {'exit':>8}  {'submodule':<32} features a sample")
    for row in planned["places"]:
        shapes = " + ".join("x".join(map(str, shape)) for shape in row["features"])
        print(
            f"{'*' if row['chosen'] else '':1} {row['share']:6.1%}  {row['flops'] / 1e6:9.3f}  "
            f"{row['exit_flops'] / 1e6:8.3f}  {row['at']:<32} {shapes}"
        )
    for at in planned["elsewhere"]:
        print(f"* elsewhere: {at}, behind which more than its own features is needed")
    return 0
