"""Training regimes compared: one network on Fashion-MNIST, the same data and epochs, three seeds.

    configs/regimes/NAME.toml --train--> runs/regimes/NAME-SEED --logits--> rows of the table

    python -m benchmarks.regimes [--seeds 1 2 3] [--only NAME]

Each (regime, seed) is a unit that is trained once and kept; an interrupted command goes on with the units that are
missing, and two that run at once share them. Temperatures, thresholds and weights of combinations are fitted on the
images held out of training; everything reported is of the test images. Exits 1 where neither distillation nor adaptive
weights beat plain joint training at the first exit.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.regimes_table import markdown
from offramp import data
from offramp.data import ImageSet
from offramp.exits import NEVER, ExitPolicy, ExitSetting, fit_temperature, fit_weights
from offramp.exits.candidates import candidate_path, cheapest
from offramp.exits.combination import Combine
from offramp.exits.thresholds import exit_taken
from offramp.models import ExitNetwork
from offramp.training import open_run, train
from offramp.training.recipe import recipe_text
from offramp.training.regimes.parts import exit_flops
from offramp.training.run import held_out

CONFIGS = Path(__file__).parent / "configs" / "regimes"
RUNS = Path("runs") / "regimes"
MAX_DROP = 0.01
PLAIN, CONTENDERS = "joint", ("distillation", "adaptive", "by_loss")

__all__ = ["markdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a trained network, and how its exits answer and let samples leave."""

    name: str
    config: str
    rule: str = "max-probability"
    combine: Combine = "none"
    learned: bool = False  # weights of the combination; all 1 otherwise


ROWS = (
    Row(name="no exits", config="none"),
    Row(name="joint, fixed weights", config="joint"),
    Row(name="joint, scheduled weights", config="scheduled"),
    Row(name="joint, adaptive weights (variance)", config="adaptive"),
    Row(name="joint, adaptive weights (loss)", config="by_loss"),
    Row(name="joint, gradients rescaled", config="rescaled"),
    Row(name="layer-wise", config="layer_wise"),
    Row(name="classifier-wise", config="classifier_wise"),
    Row(name="distillation", config="distillation"),
    Row(name="branching", config="branching"),
    Row(name="branching, leaving by its gates", config="branching", rule="gate"),
    *(
        row
        for net in ("joint", "distillation")
        for row in (
            Row(name=f"{net}, mean of exits", config=net, combine="mean"),
            Row(name=f"{net}, geometric mean of exits", config=net, combine="geometric"),
            Row(name=f"{net}, learned mean of exits", config=net, combine="mean", learned=True),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network says of N images: logits (N, C) per exit, gates (N,) per early exit, labels (N,)."""

    logits: tuple[NDArray[np.float32], ...]
    gates: tuple[NDArray[np.float32] | None, ...]
    labels: NDArray[np.int64]


# --- units --------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process holds the lock; the system frees it when a process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def outputs_of(network: ExitNetwork, images: ImageSet) -> Outputs:
    """All exits on all images, in float32."""
    whole = torch.tensor(images.images)
    with torch.no_grad():
        pieces = [network(some) for some in torch.split(whole, 500)]
    return Outputs(
        tuple(
            torch.cat(at_exit).numpy() for at_exit in zip(*(p.logits for p in pieces), strict=True)
        ),
        tuple(
            None if at_exit[0] is None else torch.cat(at_exit).numpy()
            for at_exit in zip(*(p.gates for p in pieces), strict=True)
        ),
        images.labels,
    )


def _path(config: str, seed: int, suffix: str) -> Path:
    return RUNS / f"{config}-{seed}{suffix}"


def plain_recipe(config: str, seed: int) -> dict[str, Any]:
    """What the configuration's file says, with that seed."""
    return tomllib.loads(recipe_text(CONFIGS / f"{config}.toml", seed))


def is_done(config: str, seed: int) -> bool:
    """Whether the unit was trained by the recipe as it is now."""
    path = _path(config, seed, ".json")
    if not path.exists():
        return False
    return bool(json.loads(path.read_text())["recipe"] == plain_recipe(config, seed))


def run_unit(config: str, seed: int, folder: Path | None) -> None:
    """Train one network; keep its outputs on the images held out and on the test images."""
    out = _path(config, seed, "")
    shutil.rmtree(out, ignore_errors=True)  # left by an interruption
    started_s = time.process_time()
    command = f"python -m benchmarks.regimes --seeds {seed} --only {config}"
    train(CONFIGS / f"{config}.toml", out, folder=folder, seed=seed, command=command)
    cpu_s = time.process_time() - started_s
    run = open_run(out)
    test = data.load(run.recipe.data.name, "test", folder)
    arrays: dict[str, NDArray[Any]] = {}
    for split, images in (("held", held_out(run.recipe, folder)), ("test", test)):
        found = outputs_of(run.network, images)
        arrays |= {f"{split}_logits_{k}": at for k, at in enumerate(found.logits)}
        arrays |= {f"{split}_gate_{k}": g for k, g in enumerate(found.gates) if g is not None}
        arrays[f"{split}_labels"] = found.labels
    np.savez(_path(config, seed, ".npz"), allow_pickle=False, **arrays)
    content = {
        "recipe": plain_recipe(config, seed),
        "cpu_s": round(cpu_s, 1),
        "threads": torch.get_num_threads(),
        "flops": exit_flops(run.network),
        "data": run.provenance["data"]["sha256"] | test.sha256,
    }
    temporary = _path(config, seed, ".json.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(_path(config, seed, ".json"))


def run_units(configs: Sequence[str], seeds: Sequence[int], folder: Path | None) -> None:
    """Every unit is done afterwards: first those that nobody else is at, then the others."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for wait in (False, True):
        for seed in seeds:
            for config in configs:
                if is_done(config, seed):
                    continue
                with locked(_path(config, seed, ".lock"), wait=wait) as mine:
                    if mine and not is_done(config, seed):
                        print(f"training {config}, seed {seed}", file=sys.stderr, flush=True)
                        run_unit(config, seed, folder)


# --- figures ------------------------------------------------------------------------------------


def read_outputs(config: str, seed: int, split: str) -> Outputs:
    """What `run_unit` kept."""
    with np.load(_path(config, seed, ".npz"), allow_pickle=False) as arrays:
        exits = sum(name.startswith(f"{split}_logits_") for name in arrays)
        gates = [f"{split}_gate_{k}" for k in range(exits)]
        return Outputs(
            tuple(arrays[f"{split}_logits_{k}"] for k in range(exits)),
            tuple(arrays.get(name) for name in gates),
            arrays[f"{split}_labels"],
        )


def _decided(
    policy: ExitPolicy, outputs: Outputs
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[NDArray[np.bool_]]]:
    """Confidence (E, N), whether each exit's answer is right (E, N), and who would leave."""
    decisions = list(policy.decisions(outputs.logits, gates=outputs.gates))
    right = [d.probabilities.argmax(1) == outputs.labels for d in decisions]
    return (
        np.stack([d.confidence for d in decisions]),
        np.stack(right),
        [d.leaves for d in decisions],
    )


def fit_thresholds(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], flops: Sequence[int]
) -> list[float]:
    """Of the path of candidates the one of least mean FLOPs whose accuracy falls by MAX_DROP at most."""
    path = candidate_path(confidence, ~right, flops)
    taken = np.stack([exit_taken(confidence, thresholds) for thresholds in path])
    accuracy = right[taken, np.arange(right.shape[1])].mean(1)
    best = path[cheapest(accuracy, np.asarray(flops)[taken].mean(1), MAX_DROP)]
    # Infinity is no number in JSON; NEVER lets nobody leave either.
    found: list[float] = np.minimum(best, NEVER).tolist()
    return found


def fit_policy(row: Row, held: Outputs, flops: Sequence[int]) -> ExitPolicy:
    """Temperatures, weights of the combination, thresholds: all from the images held out."""
    temperatures = [fit_temperature(at_exit, held.labels) for at_exit in held.logits]
    weights: Sequence[float] = [1.0] * len(held.logits)
    if row.learned:
        weights = fit_weights(held.logits, held.labels, row.combine, temperatures=temperatures)
    settings = [
        ExitSetting(temperature=t, weight=w) for t, w in zip(temperatures, weights, strict=True)
    ]

    def policy(thresholds: Sequence[float]) -> ExitPolicy:
        early = [
            ExitSetting(temperature=s.temperature, weight=s.weight, threshold=threshold)
            for s, threshold in zip(settings, thresholds, strict=False)
        ]
        exits = (*early, settings[-1])
        return ExitPolicy(name=row.name, rule=row.rule, combine=row.combine, exits=exits)

    confidence, right, _ = _decided(policy([1.0] * (len(settings) - 1)), held)
    return policy(fit_thresholds(confidence, right, flops))


def figures(row: Row, seed: int, plain_flops: int) -> dict[str, Any]:
    """One row of one seed, on the test images."""
    unit = json.loads(_path(row.config, seed, ".json").read_text())
    flops = unit["flops"]
    policy = fit_policy(row, read_outputs(row.config, seed, "held"), flops)
    _, right, leaves = _decided(policy, read_outputs(row.config, seed, "test"))
    taken = np.stack(leaves).argmax(0)
    mean_flops = float(np.asarray(flops)[taken].mean())
    return {
        "seed": seed,
        "accuracy": [round(float(a), 4) for a in right.mean(1)],
        "cascade_accuracy": round(float(right[taken, np.arange(len(taken))].mean()), 4),
        "exit_shares": [round(float((taken == k).mean()), 4) for k in range(len(flops))],
        "mean_flops": round(mean_flops),
        "flops_saved": round(1 - mean_flops / plain_flops, 4),
        "cpu_s": unit["cpu_s"],
        "policy": [
            {"temperature": s.temperature, "threshold": s.threshold, "weight": s.weight}
            for s in policy.exits
        ],
    }


def gains(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """How much more of the test images the first exit of each contender has right, seed by seed."""
    first = {
        row["config"]: [s["accuracy"][0] for s in row["seeds"]]
        for row in rows
        if not row["variant"]
    }
    return {
        name: [
            round(theirs - plain, 4)
            for theirs, plain in zip(first[name], first[PLAIN], strict=True)
        ]
        for name in CONTENDERS
    }


def summarise(seeds: Sequence[int]) -> dict[str, Any]:
    """All rows over all seeds, and the bar."""
    units = {
        c: json.loads(_path(c, seeds[0], ".json").read_text()) for c in {r.config for r in ROWS}
    }
    plain_flops = units["none"]["flops"][-1]
    rows = [
        {
            "name": row.name,
            "config": row.config,
            "variant": row.rule != "max-probability" or row.combine != "none",
            "flops": units[row.config]["flops"],
            "seeds": [figures(row, seed, plain_flops) for seed in seeds],
        }
        for row in ROWS
    ]
    differences = gains(rows)
    return {
        "max_drop": MAX_DROP,
        "epochs": units["none"]["recipe"]["optimiser"]["epochs"],
        "threads": units["none"]["threads"],
        "rows": rows,
        "first_exit_gain_over_joint": differences,
        # Rounded, for what is left of a sum of zero is not a gain.
        "passes": any(round(float(np.mean(values)), 6) > 0 for values in differences.values()),
    }


def main() -> int:
    """Train what is missing, write the results; the exit code."""
    parser = argparse.ArgumentParser(description="Compare training regimes on Fashion-MNIST.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", metavar="NAME", help="train this configuration, report nothing")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where Fashion-MNIST lies")
    args = parser.parse_args()
    configs = list(dict.fromkeys(row.config for row in ROWS))
    if args.only is not None and args.only not in configs:
        parser.error(f"--only: {args.only} is none of {', '.join(configs)}")
    run_units([args.only] if args.only else configs, args.seeds, args.data)
    if args.only:
        return 0
    found = summarise(args.seeds)
    unit = json.loads(_path("none", args.seeds[0], ".json").read_text())
    seeds = " ".join(map(str, args.seeds))
    command = f"python -m benchmarks.regimes --seeds {seeds}"
    path = record.write("regimes", found, command=command, data=unit["data"], seeds=args.seeds)
    print(markdown(record.read("regimes")))
    print(f"written to {path}", file=sys.stderr)
    return 0 if found["passes"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
