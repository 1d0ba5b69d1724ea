"""What made a run: its recipe, the commands, the data, the files that the recipe names, versions.

Of several processes that train together, the first one writes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from offramp.data import ImageSet
from offramp.data.fingerprints import write_trained_on
from offramp.training.fit import CHECKPOINT, Precision
from offramp.training.recipe import Recipe
from offramp.training.regimes import ClassifierWise, Distillation, Phase

_write_text = rank_zero_only(Path.write_text)
_write_trained_on = rank_zero_only(write_trained_on)


def record_command(out: Path, command: str, *, resume: bool) -> dict[str, Any]:
    """What the provenance says of the calls that made a run, this one included."""
    path = out / "commands.txt"
    earlier = path.read_text().splitlines() if resume and path.exists() else []
    first, *resumptions = commands = [*earlier, command]
    _write_text(path, "".join(f"{line}\n" for line in commands))
    return {"command": first} | ({"resumed": resumptions} if resumptions else {})


def files_read(recipe: Recipe, folder: Path | None) -> dict[str, str]:
    """SHA-256 of the weights that the recipe's regime names, by path."""
    regime, paths = recipe.regime, []
    if isinstance(regime, Distillation) and regime.teacher is not None:
        paths.append(Path(regime.teacher) / CHECKPOINT)
    if isinstance(regime, ClassifierWise) and regime.backbone_weights is not None:
        paths.append((folder or Path()) / regime.backbone_weights)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What made a run, besides the commands. folder: of the data."""

    recipe: Recipe
    trained_on: ImageSet
    held_out: int
    precision: Precision
    folder: Path | None
    phases: tuple[Phase, ...]

    def write(self, out: Path, commands: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """`out` then holds provenance.json and the fingerprints of what was trained on."""
        provenance = {
            **commands,
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "precision": self.precision,
            "data": self._data() | {"fingerprints": _write_trained_on(out, self.trained_on.images)},
            "files": files_read(self.recipe, self.folder),
            "versions": {name: version(name) for name in ("offramp", "torch", "lightning")}
            | {"python": platform.python_version()},
            "phases": [{phase.name: phase.epochs} for phase in self.phases],
            "scores": dict(scores),
        }
        _write_text(out / "provenance.json", json.dumps(provenance, indent=2) + "\n")

    def _data(self) -> dict[str, Any]:
        images = self.trained_on
        return {
            "name": images.name,
            "trained_on": len(images),
            "held_out": self.held_out,
            "image_shape": images.image_shape,
            "classes": images.classes,
            "sha256": images.sha256,
        }
