"""Whether a regime's gain at the first exit is there again on seeds that nobody had seen.

python -m benchmarks.regimes_again [--against NAME ...] [--seeds 4 5 6] [--data FOLDER]

The units are those of `benchmarks.regimes`, trained where they are missing, by recipes that were settled before. Exits
1 where the mean gain over plain joint training is not above 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import record
from benchmarks.regimes import CONFIGS, PLAIN, RUNS, read_outputs, run_units

NAME = "regimes_again"


def first_exit(config: str, seed: int) -> float:
    """Accuracy of exit 0 on the test images."""
    outputs = read_outputs(config, seed, "test")
    return float((outputs.logits[0].argmax(1) == outputs.labels).mean())


def compare(against: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Accuracies seed by seed, and the gains over plain joint training."""
    accuracy = {c: [round(first_exit(c, s), 4) for s in seeds] for c in (PLAIN, *against)}
    gains = {
        c: [round(a - b, 4) for a, b in zip(accuracy[c], accuracy[PLAIN], strict=True)]
        for c in against
    }
    unit = json.loads((RUNS / f"{PLAIN}-{seeds[0]}.json").read_text())
    return {
        "plain": PLAIN,
        "epochs": unit["recipe"]["optimiser"]["epochs"],
        "accuracy": accuracy,
        "gains": gains,
        "data": unit["data"],
    }


def _spread(values: Sequence[float], sign: str = "") -> str:
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean(values):{sign}.2f} ± {100 * spread:.2f}"


def markdown(content: dict[str, Any]) -> str:
    """The table."""
    found, seeds = content["found"], content["seeds"]
    rows = [
        f"| {config} | {' | '.join(f'{100 * a:.2f}' for a in values)} | {_spread(values)} | "
        f"{_spread(found['gains'][config], '+') if config in found['gains'] else ''} |"
        for config, values in found["accuracy"].items()
    ]
    head = f"| configuration | {' | '.join(f'seed {s}' for s in seeds)} | mean | over {found['plain']} |"
    intro = (
        f"The first exit alone, {found['epochs']} epochs, seeds that no recipe had been looked at with; accuracy in "
        "per cent of the 10,000 test images, mean ± standard deviation."
    )
    table = "\n".join([head, "|---" * (len(seeds) + 3) + "|", *rows])
    return f"{intro}\n\n{table}\n\n    {content['command']}"


def main() -> int:
    """Train what is missing, compare, write; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.regimes_again", description=__doc__)
    names = sorted(path.stem for path in CONFIGS.glob("*.toml"))
    parser.add_argument("--against", nargs="+", default=["by_loss"], choices=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where Fashion-MNIST lies")
    args = parser.parse_args()
    run_units([PLAIN, *args.against], args.seeds, args.data)
    found = compare(args.against, args.seeds)
    command = record.command(f"benchmarks.{NAME}")
    path = record.write(NAME, found, command=command, data=found.pop("data"), seeds=args.seeds)
    print(markdown(record.read(NAME)))
    print(f"written to {path}", file=sys.stderr)
    return 0 if all(mean(gains) > 0 for gains in found["gains"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
