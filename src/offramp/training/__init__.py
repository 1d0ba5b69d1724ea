"""Training: a recipe (one TOML file) in, a run (checkpoints, log, provenance) out."""

from offramp.training.recipe import Recipe, read_recipe
from offramp.training.run import Run, build_network, open_run, train

__all__ = ["Recipe", "Run", "build_network", "open_run", "read_recipe", "train"]
