"""`offramp quantize BUNDLE --out NEW`: the same network in int8, another bundle with its own certificate to come."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from offramp.bundle import Bundle, load_bundle
from offramp.cli.extra import needs_extra
from offramp.cli.samples import add_samples, samples_of
from offramp.data.unseen import Unseen


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "quantize",
        help="make an int8 bundle of a float32 one",
        description="Quantise a bundle's stages with onnxruntime, on samples that training did not "
        "see. Which layers become int8 is decided by how the exits answer on them, the policies are "
        "fitted anew, and certificates of the float32 stages stay behind: calibrate the new bundle.",
    )
    parser.add_argument("bundle", type=Path, help="the float32 bundle's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help="a new folder")
    parser.add_argument("--name", help="the new bundle's name (default: the old one's and -int8)")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="how far the policy's accuracy may fall below the last exit's, on samples held out "
        "(default: %(default)s)",
    )
    add_int8(parser)
    add_samples(parser)
    parser.set_defaults(run=run)


def add_int8(parser: argparse._ActionsContainer) -> None:
    """The options of quantisation itself."""
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="how far int8 may lower the accuracy of any exit, on samples held out "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=2000,
        metavar="N",
        help="how many of these decide (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Quantise; print what it did to each stage."""
    source = load_bundle(args.bundle)
    return quantize(args, source, samples_of(args, source))


def quantize(args: argparse.Namespace, source: Bundle, unseen: Unseen) -> int:
    """The int8 bundle of another, in --out, as the options say."""
    with needs_extra("quantize", "train"):
        from offramp.export.int8_bundle import Quantising, write_int8
    quantising = Quantising(
        name=args.name or f"{source.manifest.name}-int8",
        samples=args.samples,
        max_loss=args.max_loss,
        max_drop=args.max_drop,
        command=shlex.join(["offramp", *sys.argv[1:]]),
    )
    bundle = write_int8(source, args.out, unseen, quantising)
    print("\n".join(lines(source, bundle)))
    return 0


def lines(source: Bundle, bundle: Bundle) -> Iterator[str]:
    """What became of each stage, and what is left to do."""
    said = bundle.manifest.provenance["quantisation"]
    held = said["held_out"]
    yield f"{bundle.folder}: network {bundle.digest[:12]}, of {source.digest[:12]}"
    for k, stage in enumerate(said["stages"]):
        before, after = (len(b.stage_bytes(k)) / 1e3 for b in (source, bundle))
        yield (
            f"stage {k}: {stage['arrangement']}, {stage['int8_layers']} of {stage['layers']} layers in int8, "
            f"{before:,.0f} -> {after:,.0f} kB; exit {k}: {held['accuracy_float32'][k]:.2%} -> "
            f"{held['accuracy'][k]:.2%}, the same label for {held['agreement'][k]:.2%}"
        )
    yield f"on {said['data']['samples']:,} of {said['data']['name']}, which decided this: no test"
    yield f"no policy is certified: offramp calibrate {shlex.quote(str(bundle.folder))}"
