"""`offramp evaluate BUNDLE`: how right, at what cost, beside the baselines, and whether certificates hold.

test samples --stages, once--> evaluation.report --> tables, JSON, picture
held-out samples of the provenance, where there --> the path of the curve
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp import data
from offramp.bundle import Bundle, load_bundle
from offramp.cli.outputs import check_output, check_picture
from offramp.data.unseen import Unseen, compare, from_file, held_out, was_made_on
from offramp.errors import InvalidInput
from offramp.evaluation.beside import beside
from offramp.evaluation.cache import CACHE, check_inputs
from offramp.evaluation.costs import flops_of_codecs
from offramp.evaluation.report import Evaluation, Labelled, evaluate
from offramp.exits import BASELINES, ExitPolicy

LATENCY = (
    "compute: the stages' own passes, one sample at a time on one thread of this machine; without "
    "links, queues and decoding"
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "evaluate",
        help="accuracy against FLOPs, bytes and latency, beside the baselines",
        description="Run a bundle's stages once over test samples, and say of every exit, policy, "
        "certificate and baseline how right it is and what it costs, with 95 % intervals.",
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="NAME", help="a data set: its test part")
    source.add_argument("--images", type=Path, metavar="FILE.npz", help="samples x and labels y")
    parser.add_argument("--folder", type=Path, help="where the data set's files lie")
    parser.add_argument(
        "--train-folder",
        type=Path,
        metavar="FOLDER",
        help="where the training data's files lie; the curve of cascades is fixed on the part of it "
        "that was held out (default: --folder)",
    )
    parser.add_argument("--policy", action="append", metavar="NAME", help="only this one; repeat")
    parser.add_argument("--json", metavar="FILE", help="everything, for machines; -: on stdout")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw three panels, as PNG")
    parser.add_argument(
        "--deploy",
        type=int,
        default=0,
        metavar="N",
        help="measure the first N images through three real processes as well",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="BUNDLE",
        help="another bundle of the same exits, such as the float32 one of an int8 one: their "
        "accuracies, and their stages timed in turn",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help=f"where logits are kept (default: {CACHE})"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print; 1 where the measured risk breaks a certificate."""
    try:
        from offramp.cli.evaluation_tables import Watching, show
    except ModuleNotFoundError as exc:
        raise InvalidInput("evaluate", f"needs the extra `demo` ({exc.name} is missing)") from exc
    _check_outputs(arguments)
    bundle = load_bundle(arguments.bundle)
    other = load_bundle(arguments.beside) if arguments.beside else None
    if arguments.deploy and not all(map(bundle.manifest.policy, BASELINES)):
        raise InvalidInput("--deploy", f"needs the policies {' and '.join(BASELINES)}")
    policies = _policies(bundle, arguments.policy)
    source = _source(bundle, arguments)
    held, curve = _held_out(bundle, arguments)
    made_here = [c for c in bundle.manifest.certificates if was_made_on(c, source, held)]
    with Watching() as watching:
        found = evaluate(
            bundle,
            _labelled(source),
            policies,
            fit_on=None if held is None else _labelled(held),
            made_here=made_here,
            cache=arguments.cache,
            watch=watching.saw,
        )
    figures = _figures(bundle, source, curve, found)
    if other is not None:
        samples = _labelled(source)
        pair = beside(bundle, other, samples.samples, samples.labels, cache=arguments.cache)
        figures["beside"] = asdict(pair)
    if arguments.deploy:
        figures["deployment"] = _deployed(bundle, _labelled(source), arguments.deploy)
    if arguments.json != "-":
        show(figures)
    _write(arguments, figures)
    return int(any(risk.verdict == "above the bound" for risk in found.certificates))


def _check_outputs(arguments: argparse.Namespace) -> None:
    if arguments.deploy < 0:
        raise InvalidInput("--deploy", f"{arguments.deploy} is below 0")
    if arguments.picture:
        check_picture("--picture", arguments.picture)
    if arguments.json and arguments.json != "-":
        check_output("--json", Path(arguments.json))


def _policies(bundle: Bundle, names: list[str] | None) -> list[ExitPolicy]:
    """The policies asked for, by default all. Raises InvalidInput naming those that there are."""
    policies = bundle.manifest.policies
    found = [bundle.manifest.policy(name) for name in names or ()] or list(policies)
    for name, policy in zip(names or (), found, strict=False):
        if policy is None:
            there = ", ".join(policy.name for policy in policies)
            raise InvalidInput("--policy", f"{name!r} is none of {there}")
    return [policy for policy in found if policy is not None]


def _labelled(unseen: Unseen) -> Labelled:
    if unseen.labels is None:
        raise InvalidInput(f"{unseen.name}: y", "is missing: accuracy needs labels")
    return Labelled(samples=unseen.samples, labels=unseen.labels)


def _source(bundle: Bundle, arguments: argparse.Namespace) -> Unseen:
    """Test samples that fit the bundle. Raises InvalidInput where they do not, or were trained on."""
    train_folder = arguments.train_folder or arguments.folder
    if arguments.images:
        return from_file(bundle, arguments.images, train_folder)
    test = data.load(arguments.data, "test", arguments.folder)
    check_inputs(bundle, test.images)
    if test.classes != bundle.manifest.network.classes:
        message = f"{test.name} has other classes than network {bundle.digest[:12]}"
        raise InvalidInput("--data", message)
    _check_hashes(bundle, test.sha256)
    return Unseen(
        name=test.name,
        samples=test.images,
        labels=test.labels,
        rows=np.arange(len(test)),
        sha256=test.sha256,
        compared=compare(bundle, test.images, train_folder),
    )


def _check_hashes(bundle: Bundle, sha256: dict[str, str]) -> None:
    """Pass where files that the provenance knows are those. Raises InvalidInput naming the file."""
    recorded = bundle.manifest.provenance.get("data")
    known = recorded.get("sha256", {}) if isinstance(recorded, dict) else {}
    for file, digest in sha256.items():
        if known.get(file, digest) != digest:
            message = f"{file}: SHA-256 {digest}, but the bundle's provenance says {known[file]}"
            raise InvalidInput("--data", message)


def _held_out(bundle: Bundle, arguments: argparse.Namespace) -> tuple[Unseen | None, str]:
    """Samples to fix the curve on, and what they are; or None, and why there are none.

    Raises InvalidInput where the training data is there and is not what the network was trained on.
    """
    try:
        unseen = held_out(bundle, None, arguments.train_folder or arguments.folder)
    except InvalidInput as exc:
        nowhere = exc.field in ("provenance", "data.folder")  # unfit or not said, or no folder
        if nowhere or isinstance(exc.__cause__, OSError):
            return None, f"no curve: {exc}"
        raise
    return unseen, f"path fixed on {len(unseen)} samples of {unseen.name}"


def _figures(bundle: Bundle, source: Unseen, curve: str, found: Evaluation) -> dict[str, Any]:
    recipe = bundle.manifest.provenance.get("recipe")
    return {
        "bundle": {
            "name": bundle.manifest.name,
            "network": bundle.digest,
            "trained_on": recipe["data"]["name"] if isinstance(recipe, dict) else None,
        },
        "data": {
            "name": source.name,
            "samples": found.samples,
            "sha256": source.sha256,
            "left_out": source.left_out,
            "compared_with_training": source.compared,
        },
        "notes": {
            "intervals": "95 %: Wilson's for shares, normal for means of FLOPs and bytes",
            "flops": "2 a multiply-accumulate; heads and codecs on the way included",
            "saved": _saved_of(bundle, found),
            "bytes": "whole messages up, one sample each, over both links (stage 0 | stage 1 | rest)",
            "latency": LATENCY,
            "curve": curve,
            **_doubts(source, found),
        },
        **asdict(found),
    }


def _saved_of(bundle: Bundle, found: Evaluation) -> str:
    whole, codecs = found.flops_without_heads / 1e6, flops_of_codecs(bundle.manifest) / 1e6
    return (
        f"saved: of {whole:.2f} MFLOPs, those of the network without early exits; its codecs are "
        f"{codecs:.2f} of them, which a network that is never cut would not need either"
    )


def _doubts(source: Unseen, found: Evaluation) -> dict[str, str]:
    """What a reader must know before trusting the figures; nothing where all is well."""
    doubts = {}
    if source.compared == "not checked":
        doubts["training"] = (
            "overlap with training: not checked, for what was trained on is not here"
        )
    if source.left_out:
        doubts["copies"] = f"left out: {source.left_out:,} samples identical to another here"
    own = [risk.policy for risk in found.certificates if not risk.is_independent]
    if own:
        doubts["risk"] = (
            f"the risk of {', '.join(own)} is no independent check: these samples made its certificate"
        )
    return doubts


def _deployed(bundle: Bundle, labelled: Labelled, count: int) -> dict[str, Any]:
    """The first images through three processes on this machine, and the baselines of `offramp demo`."""
    from offramp.evaluation.comparison import as_json, compare

    images: NDArray[np.uint8] = labelled.samples[:count]
    return as_json(bundle, compare(bundle, images, labelled.labels[:count]))


def _write(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    if arguments.picture:
        from offramp.cli.evaluation_picture import draw

        draw(figures, arguments.picture)
        sys.stderr.write(f"offramp: drew {arguments.picture}\n")
    if arguments.json:
        text = json.dumps(figures, indent=2) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
        else:
            Path(arguments.json).write_text(text, encoding="utf-8")
