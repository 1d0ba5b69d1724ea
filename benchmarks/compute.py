"""Compute saved on CIFAR-10 (JPEG q75 copy): cascades of one network against itself and against plain ones.

python -m benchmarks.compute [--runs A B C] [--plain D E F] [--max-drop SHARE] [--data FOLDER] [--plan]

A run that is missing is trained (seeds 1, 2, 3 of `cifar10_exits.toml` and `cifar10_plain.toml`), and one that was
interrupted goes on. Each becomes a bundle, once, and is measured as it is deployed: stages on onnxruntime. Temperatures
and thresholds come from the images held out of training alone; the test images are for the report. The plain networks
have no exits and as many FLOPs as the cascades take on the images held out, or a little more: --plan trains the
networks with exits, prints those FLOPs and the plain network of that size, and reads no test image. Exit code 1 where a
bar is broken: at least half of the FLOPs saved at no more than 0.5 points under the same network's last exit, and
cascades at least as accurate as the plain networks, both in the mean over the seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.compute_table import markdown
from benchmarks.plain import plain_recipe
from benchmarks.trained import exported, trained
from offramp import data
from offramp.bundle import Bundle
from offramp.data import ImageSet
from offramp.errors import InvalidInput
from offramp.evaluation.cache import Logits, cached_logits
from offramp.evaluation.calibration import Observed
from offramp.evaluation.costs import flops_to_leave, flops_without_heads
from offramp.evaluation.curves import fit_curve
from offramp.evaluation.intervals import mean as estimate
from offramp.evaluation.reference import answer
from offramp.exits import ExitPolicy

SAVED_BAR, DROP_BAR = 0.5, 0.005
SEEDS = (1, 2, 3)
MODULE = "benchmarks.compute"


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network, and what its exits say of the images that its training did not see."""

    folder: Path
    bundle: Bundle
    seed: int
    held: Logits
    labels: NDArray[np.int64]

    @property
    def costs(self) -> NDArray[np.int64]:
        """(E,) FLOPs to leave at each exit."""
        return flops_to_leave(self.bundle.manifest)

    def logits(self, images: NDArray[np.uint8]) -> Logits:
        """What its exits say of other images, (N, H, W, C)."""
        return cached_logits(self.bundle, images, self.folder / "logits")


def opened(folder: Path, data_folder: Path | None) -> Network:
    """The network of a finished run. Raises InvalidInput where the folder holds none."""
    run, bundle, held = exported(folder, data_folder)
    logits = cached_logits(bundle, held.images, folder / "logits")
    return Network(folder, bundle, run.recipe.seed, logits, held.labels)


def cascade(network: Network, max_drop: float) -> ExitPolicy:
    """The policy of least mean FLOPs within that drop on the images held out."""
    costs = np.repeat(network.costs[:, None].astype(np.float64), len(network.labels), axis=1)
    observed = Observed(logits=network.held, cost=costs, labels=network.labels)
    return fit_curve(observed).cheapest(max_drop)


def held_out_row(network: Network, policy: ExitPolicy) -> dict[str, float]:
    """What a cascade gives on the images that it was fitted on."""
    answers = answer(policy, network.held)
    last = network.held[-1].argmax(1)
    return {
        "accuracy": float((answers.labels == network.labels).mean()),
        "last_exit_accuracy": float((last == network.labels).mean()),
        "mean_flops": float(network.costs[answers.exits].mean()),
    }


def cascade_row(network: Network, test: ImageSet, max_drop: float) -> dict[str, Any]:
    """What a network with exits gives on the test images: each exit, and its cascade."""
    policy, costs = cascade(network, max_drop), network.costs
    logits = network.logits(test.images)
    right = np.stack([at.argmax(1) == test.labels for at in logits])
    answers = answer(policy, logits)
    flops = float(costs[answers.exits].mean())
    without = flops_without_heads(network.bundle.manifest)
    drop = estimate(right[-1].astype(int) - (answers.labels == test.labels))
    return {
        "seed": network.seed,
        "network": network.bundle.digest,
        "exits": [
            {"accuracy": float(at.mean()), "flops": int(cost)}
            for at, cost in zip(right, costs, strict=True)
        ],
        "flops_without_heads": without,
        "policy": [
            {"temperature": setting.temperature, "threshold": setting.threshold, "on": setting.on}
            for setting in policy.exits
        ],
        "shares": (np.bincount(answers.exits, minlength=len(costs)) / len(test)).tolist(),
        "accuracy": float((answers.labels == test.labels).mean()),
        "drop": {"value": drop.value, "low": drop.low, "high": drop.high},
        "mean_flops": flops,
        "saved": 1 - flops / without,
        "saved_with_heads": 1 - flops / int(costs[-1]),
        "held_out": held_out_row(network, policy),
    }


def plain_row(network: Network, test: ImageSet) -> dict[str, Any]:
    """What a network without exits gives on the test images."""
    last = network.logits(test.images)[-1].argmax(1)
    return {
        "seed": network.seed,
        "network": network.bundle.digest,
        "accuracy": float((last == test.labels).mean()),
        "flops": flops_without_heads(network.bundle.manifest),
    }


def summary(cascades: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and whether each bar holds (None without plain networks)."""
    saved, drop = mean(c["saved"] for c in cascades), mean(c["drop"]["value"] for c in cascades)
    found: dict[str, Any] = {
        "saved": saved,
        "drop": drop,
        "saves_enough": saved >= SAVED_BAR and drop <= DROP_BAR,
        "beats_plain": None,
    }
    if plain:
        gains = [c["accuracy"] - p["accuracy"] for c, p in zip(cascades, plain, strict=True)]
        spent = [p["flops"] - c["mean_flops"] for c, p in zip(cascades, plain, strict=True)]
        found |= {
            "gains": gains,
            "gain": mean(gains),
            "gain_spread": stdev(gains) if len(gains) > 1 else None,
            "plain_has_as_many_flops": mean(spent) >= 0,
            "beats_plain": mean(gains) >= 0 and mean(spent) >= 0,
        }
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m {MODULE}", description=__doc__)
    for option, kind in (("--runs", "exits"), ("--plain", "plain")):
        default = [Path(f"runs/cifar10_{kind}_{seed}") for seed in SEEDS]
        parser.add_argument(option, type=Path, nargs="*", default=default, metavar="RUN")
    parser.add_argument("--max-drop", type=float, default=0.0, help="on the images held out")
    folder = os.environ.get("OFFRAMP_DATA")
    parser.add_argument("--data", type=Path, default=Path(folder) if folder else None)
    parser.add_argument("--plan", action="store_true", help="only say which plain network compares")
    return parser.parse_args(argv)


def _networks(config: str, folders: Sequence[Path], data_folder: Path | None) -> list[Network]:
    if len(folders) > len(SEEDS):
        raise InvalidInput("--runs", f"{len(folders)} runs for the seeds {SEEDS}")
    return [
        opened(trained(config, folder, data_folder, seed=seed), data_folder)
        for seed, folder in zip(SEEDS, folders, strict=False)
    ]


def plan(networks: Sequence[Network], max_drop: float) -> str:
    """The plain network to compare with, from the images held out alone."""
    rows = [held_out_row(network, cascade(network, max_drop)) for network in networks]
    flops = mean(row["mean_flops"] for row in rows)
    lines = [
        f"seed {network.seed}: cascade {row['accuracy']:.2%}, last exit {row['last_exit_accuracy']:.2%}, "
        f"{row['mean_flops'] / 1e6:.2f} MFLOPs on the images held out"
        for network, row in zip(networks, rows, strict=True)
    ]
    backbone, spent = plain_recipe(flops)
    return "\n".join((*lines, f"plain network, {spent / 1e6:.2f} MFLOPs: {backbone}"))


def measure(
    args: argparse.Namespace, networks: Sequence[Network], command: str
) -> tuple[dict[str, Any], Path]:
    """What is found, and the file that holds it; command: what measured it."""
    plain_networks = _networks("cifar10_plain", args.plain, args.data)
    test = data.load("cifar10-jpeg", "test", args.data)
    cascades = [cascade_row(network, test, args.max_drop) for network in networks]
    plain = [plain_row(network, test) for network in plain_networks]
    found = {"max_drop": args.max_drop, "test_images": len(test), "cascades": cascades}
    found |= {"plain": plain, "summary": summary(cascades, plain)}
    hashes = test.sha256 | networks[0].bundle.manifest.provenance["data"]["sha256"]
    seeds = [network.seed for network in networks]
    return found, record.write("compute", found, command=command, data=hashes, seeds=seeds)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; 0 where every bar holds, 1 where one does not, 2 for wrong input."""
    args = _arguments(argv)
    try:
        beside = len(args.runs) if args.plan else len(args.plain)
        if not args.runs or beside not in (0, len(args.runs)):
            raise InvalidInput("--plain", f"{len(args.plain)} runs beside {len(args.runs)}")
        networks = _networks("cifar10_exits", args.runs, args.data)
        if args.plan:
            print(plan(networks, args.max_drop))
            return 0
        found, path = measure(args, networks, record.command(MODULE, argv))
    except InvalidInput as exc:
        print(exc, file=sys.stderr)
        return 2
    print(markdown(record.read("compute")), f"{path} written", sep="\n\n")
    verdicts = (found["summary"]["saves_enough"], found["summary"]["beats_plain"])
    return 0 if all(verdict is not False for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
