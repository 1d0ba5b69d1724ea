"""`offramp export RUN --out BUNDLE`: cut a trained network into stages, fit its policies."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from offramp.bundle.drafting import check_new
from offramp.cli.extra import needs_extra
from offramp.cli.quantize import add_int8, quantize


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "export",
        help="make a bundle of a trained run",
        description="Export a run to one ONNX file a stage, fit its exit policies on the part of "
        "the data that training did not see, and check every stage against PyTorch.",
    )
    parser.add_argument("trained", type=Path, metavar="RUN", help="what `offramp train` made")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="a new folder")
    parser.add_argument("--name", help="the bundle's name (default: that of the data)")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="how far the accuracy may fall below the last exit's, on the images held out "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--entropy-coding",
        action="store_true",
        help="fit tables that make likely codes short on the wire",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the data set's files lie"
    )
    parser.add_argument(
        "--quantize",
        action="store_true",
        help="put an int8 bundle there instead (for both: export, then `offramp quantize`)",
    )
    add_int8(parser.add_argument_group("of --quantize"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; print what the default policy gives on the images held out."""
    with needs_extra("export", "train"):
        from offramp.data.fingerprints import TRAINED_ON
        from offramp.data.unseen import held_out as held_out_of
        from offramp.export.bundle import Exporting, write_bundle
        from offramp.training import open_run
        from offramp.training.run import held_out
    trained = open_run(args.trained)
    trained_on = args.trained / TRAINED_ON
    exporting = Exporting(
        name=args.name or trained.recipe.data.name,
        max_drop=args.max_drop,
        entropy_coding=args.entropy_coding,
        command=shlex.join(["offramp", *sys.argv[1:]]),
        provenance=trained.provenance,
        trained_on=trained_on if trained_on.exists() else None,
    )
    held = held_out(trained.recipe, args.data)
    if args.quantize:
        check_new(args.out)
        with tempfile.TemporaryDirectory() as folder:
            source = write_bundle(trained.network, Path(folder, "float32"), held, exporting)
            return quantize(args, source, held_out_of(source, None, args.data))
    bundle = write_bundle(trained.network, args.out, held, exporting)
    fitted = bundle.manifest.provenance["export"]["calibration"]["thresholds"]
    shares = ", ".join(f"{share:.1%}" for share in fitted["exit_shares"])
    print(f"{args.out}: network {bundle.digest[:12]}, {len(bundle.held)} stages")
    print(
        f"policy {bundle.manifest.policies[0].name}: {fitted['accuracy']:.2%} "
        f"(last exit {fitted['last_exit_accuracy']:.2%}), leaving at each exit: {shares}, "
        f"{fitted['mean_cost']:.1f} bytes up an image"
    )
    return 0
