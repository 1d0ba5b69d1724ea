"""`offramp train RECIPE --out DIR`: train a network with exits."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from offramp.cli.extra import needs_extra


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train a network with exits as a recipe says",
        description="Train a network as its recipe's regime says; the run resumes after any epoch.",
    )
    parser.add_argument(
        "recipe", type=Path, help="TOML file: data, network, exits, regime, optimiser, seed"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the data set's files lie"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's")
    parser.add_argument(
        "--weights-from",
        type=Path,
        metavar="RUN",
        help="begin with the weights of an earlier run, where they fit by name and shape",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's last epoch")
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed"),
        default="bf16-mixed",
        help="32-true repeats to the bit on one machine (default: %(default)s)",
    )
    parser.add_argument(
        "--stop-after", type=int, metavar="EPOCHS", help="end after so many epochs, to be resumed"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; print each exit's accuracy on the part held out."""
    with needs_extra("train", "train"):
        from offramp.training import train
    scores = train(
        args.recipe,
        args.out,
        folder=args.data,
        seed=args.seed,
        weights_from=args.weights_from,
        resume=args.resume,
        precision=args.precision,
        stop_after=args.stop_after,
        command=shlex.join(["offramp", *sys.argv[1:]]),
    )
    if scores is None:
        print(f"{args.out}: unfinished; go on with --resume")
        return 0
    for name, accuracy in scores.items():
        if "accuracy" in name:
            print(f"exit {name.rpartition('_')[2]}: {accuracy:.2%} of the images held out")
    return 0
