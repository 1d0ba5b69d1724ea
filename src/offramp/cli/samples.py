"""The samples that training did not see, as the verbs that fit something to them are told of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from offramp.bundle import Bundle
from offramp.data.unseen import Unseen, from_file, held_out
from offramp.errors import InvalidInput


def add_samples(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options that say where samples are; their group, for more."""
    samples = parser.add_argument_group(
        "samples", "By default the part of the training data that was held out."
    )
    samples.add_argument("--data", metavar="NAME", help="the data set, as its recipe calls it")
    samples.add_argument("--folder", type=Path, help="where the data set's files lie")
    samples.add_argument(
        "--images", type=Path, metavar="FILE", help="others: an .npz of x and, where known, y"
    )
    return samples


def samples_of(args: argparse.Namespace, bundle: Bundle) -> Unseen:
    """What the options say. Raises InvalidInput where they say two things, or samples that do not do."""
    if args.images is None:
        try:
            return held_out(bundle, args.data, args.folder)
        except InvalidInput as exc:
            if exc.field != "provenance":
                raise
            raise InvalidInput(exc.field, f"{exc.message}; give --images") from exc
    if args.data is not None:
        raise InvalidInput("--images", "given beside --data; they say two sources of samples")
    return from_file(bundle, args.images, args.folder)
