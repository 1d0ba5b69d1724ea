"""A bundle's stages in int8 beside the float32 ones: how right, how fast, how large.

python -m benchmarks.int8 [--bundle FOLDER] [--data FOLDER]

    bundle --offramp calibrate------------------> float32, certified --+
           --offramp quantize, then calibrate --> int8, certified -----+--> both on the test images
                                                                       +--> both in turn, timed

Exit code 1 where an exit of the int8 bundle is less accurate on the test images by more than quantisation was allowed
on those held out, where its certificate does not hold on them, or where the stage that a device runs is not faster.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.int8_table import markdown
from offramp.bundle import Bundle, load_bundle
from offramp.cli import main as offramp
from offramp.data.unseen import Unseen, to_report_on
from offramp.errors import InvalidInput
from offramp.evaluation.beside import beside
from offramp.evaluation.costs import flops_to_leave
from offramp.evaluation.intervals import share
from offramp.evaluation.observation import observe
from offramp.evaluation.reference import answer
from offramp.evaluation.stage_times import times_in_turn
from offramp.exits.certificate import losses

BUNDLE = Path("examples/fashion_mnist/bundle")
EPSILON, MOST_LOSS = 0.01, 0.005
BATCH, BATCHED = 32, 3200  # size of the larger batches that are timed, and images in all

__all__ = ["markdown"]


def verb(*words: str) -> None:
    """One of the program's verbs, what it prints sent to stderr. Raises InvalidInput where it fails."""
    with contextlib.redirect_stdout(sys.stderr):
        if code := offramp(words):
            raise InvalidInput(f"offramp {words[0]}", f"ended with {code}")


def made(source: Path, data: Path | None, folder: Path) -> dict[str, Bundle]:
    """The certified bundles: of the same stages, and of them in int8."""
    where = ("--folder", str(data)) if data else ()
    bound = ("--max-drop", str(EPSILON), *where)
    float32, int8 = folder / "float32", folder / "int8"
    verb("calibrate", str(source), *bound, "--out", str(float32))
    verb("quantize", str(source), *where, "--max-loss", str(MOST_LOSS), "--out", str(int8))
    verb("calibrate", str(int8), *bound)
    return {"float32": load_bundle(float32), "int8": load_bundle(int8)}


def said(bundle: Bundle, test: Unseen, labels: NDArray[np.int64]) -> dict[str, Any]:
    """How right a bundle's certified policy is on test samples, and whether its certificate holds there."""
    observed = observe(bundle, test.samples, labels, "flops")
    policy, certificates = bundle.manifest.policy("certified"), bundle.manifest.certificates
    if policy is None:
        raise InvalidInput("bundle", "has no policy called certified")
    answers = answer(policy, observed.logits, gates=observed.gates)
    certificate = next(found for found in certificates if found.policy == policy.id)
    errors = losses(answers.labels[None], observed.logits[-1].argmax(1), labels, certificate.risk)
    risk = share(int(errors.sum()), errors.size)
    right, exits = answers.labels == labels, len(observed.logits)
    return {
        "network": bundle.digest,
        "policy": {
            "accuracy": asdict(share(int(right.sum()), len(right))),
            "leaving": [float((answers.exits == k).mean()) for k in range(exits)],
            "flops": float(flops_to_leave(bundle.manifest)[answers.exits].mean()),
        },
        "certificate": {
            "epsilon": certificate.epsilon,
            "samples": certificate.samples,
            "errors": certificate.errors,
            "risk": asdict(risk),
            "holds": risk.low <= certificate.epsilon,
        },
    }


def measure(bundles: dict[str, Bundle], test: Unseen) -> dict[str, Any]:
    """Both bundles on the test samples and on the clock."""
    if test.labels is None:
        raise InvalidInput(test.name, "has no labels")
    float32, int8 = bundles["float32"], bundles["int8"]
    quantisation = int8.manifest.provenance["quantisation"]
    with tempfile.TemporaryDirectory() as cache:
        pair = beside(int8, float32, test.samples, test.labels, cache=Path(cache))
    batched = times_in_turn(list(bundles.values()), test.samples[:BATCHED], batch=BATCH)
    return {
        "bundle": float32.manifest.name,
        "images": len(test),
        "method": quantisation["method"],
        "deciding": quantisation["data"]["samples"],
        "stages": quantisation["stages"],
        "beside": asdict(pair),
        "batch": BATCH,
        "batched": {
            name: [asdict(at) for at in of_stages]
            for name, of_stages in zip(bundles, batched, strict=True)
        },
        "networks": {name: said(of, test, test.labels) for name, of in bundles.items()},
    }


def bars(found: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, what was found, and whether it is reached."""
    exits = found["beside"]["exits"]
    loss = max(at["other_accuracy"]["value"] - at["accuracy"]["value"] for at in exits)
    ratio = exits[0]["time"]["p50_ms"] / exits[0]["other_time"]["p50_ms"]
    return {
        "loss": {"found": loss, "most": MOST_LOSS, "holds": loss <= MOST_LOSS},
        "first_stage": {"found": ratio, "most": 1.0, "holds": ratio < 1.0},
        "certificate": {"holds": found["networks"]["int8"]["certificate"]["holds"]},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Make, measure, write and print; 0 where every bar holds, 2 for wrong input."""
    parser = argparse.ArgumentParser("python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the data set's files lie"
    )
    args = parser.parse_args(argv)
    command = record.command("benchmarks.int8", argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bundles = made(args.bundle, args.data, Path(folder))
            test = to_report_on(bundles["float32"], args.data)
            found = measure(bundles, test)
    except InvalidInput as exc:
        print(exc, file=sys.stderr)
        return 2
    found["bars"] = bars(found)
    print(markdown({"command": command, "found": found}))
    if args.bundle == BUNDLE:
        training = bundles["int8"].manifest.provenance["quantisation"]["data"]["sha256"]
        path = record.write("int8", found, command=command, data=training | test.sha256, seeds=[1])
        print(f"\n{path} written")
    return 0 if all(bar["holds"] for bar in found["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
