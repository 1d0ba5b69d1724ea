"""A trained network for a benchmark: trained where it is missing, exported where it has no bundle yet.

config, seed --train, resumed where it was interrupted--> RUN --export, once--> RUN/bundle
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from offramp.bundle import Bundle, load_bundle
from offramp.data import ImageSet
from offramp.errors import InvalidInput
from offramp.export.bundle import Exporting, write_bundle
from offramp.training import Run, open_run, train
from offramp.training.fit import CHECKPOINT
from offramp.training.recipe import read_recipe
from offramp.training.run import held_out

CONFIGS = Path("benchmarks/configs")


class Exported(NamedTuple):
    """A finished run, its bundle, and the images that its training did not see."""

    run: Run
    bundle: Bundle
    held: ImageSet


def finished(run: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    return (run / "provenance.json").exists()


def trained(config: str, run: Path, folder: Path | None, *, seed: int) -> Path:
    """The folder of a finished run of benchmarks/configs/CONFIG.toml with that seed.

    An interrupted one is resumed. folder: where the data set's files lie. Raises InvalidInput where
    the folder holds a run of another recipe.
    """
    recipe = CONFIGS / f"{config}.toml"
    if finished(run):
        if read_recipe(run / "recipe.toml") != read_recipe(recipe, seed):
            raise InvalidInput(str(run), f"was not made by {recipe} with seed {seed}")
        return run
    command = f"offramp train {recipe} --seed {seed} --out {run}"
    resume = (run / CHECKPOINT).exists()
    train(recipe, run, folder=folder, seed=seed, resume=resume, command=command)
    return run


def exported(run: Path, folder: Path | None) -> Exported:
    """A finished run and its bundle. Raises InvalidInput where the folder holds none."""
    opened = open_run(run)
    held = held_out(opened.recipe, folder)
    out = run / "bundle"
    if not out.exists():
        write_bundle(
            opened.network, out, held, Exporting(name=run.name, provenance=opened.provenance)
        )
    return Exported(opened, load_bundle(out), held)
