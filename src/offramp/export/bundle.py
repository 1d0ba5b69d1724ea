"""From a network to a bundle: export, cut, calibrate, check, and only then put in place.

network --> whole graph --> stages --> draft bundle --> parity --> calibration --> bundle
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from offramp.bundle import (
    Boundary,
    Bundle,
    Codec,
    Manifest,
    Network,
    Preparation,
    Stage,
    StageCost,
    load_bundle,
    write_manifest,
)
from offramp.data import ImageSet
from offramp.errors import InvalidBundle, InvalidInput
from offramp.evaluation.reference import run_stages
from offramp.export.cost import stage_costs
from offramp.export.cut import CutStage, cut_stages
from offramp.export.parity import compare
from offramp.export.policy import Calibration, calibrate, constant_policies
from offramp.export.whole import export_whole, logits_name, marker_names
from offramp.models import ExitNetwork

_CHECKED_BATCHES, _CHECKED_IMAGES = (1, 3, 32), 96
_CALIBRATION_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporting:
    """The bundle's name, the accuracy that thresholds may cost, the command that asked, what made the network."""

    name: str
    max_drop: float = 0.001
    command: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise InvalidInput("--max-drop", f"{self.max_drop} is no share of at least 0, below 1")


def _boundary(network: ExitNetwork, k: int, stage: CutStage) -> Boundary:
    codec = network.codec(k) if k else None
    if codec is None:
        return Boundary(tensors=stage.inputs)
    spec = codec.spec
    return Boundary(
        tensors=tuple(replace(tensor, bits=spec.bits) for tensor in stage.inputs),
        codec=Codec(channels=spec.channels, bits=spec.bits, stride=spec.stride),
    )


def _write_stages(stages: Sequence[CutStage], folder: Path) -> tuple[Stage, ...]:
    written = []
    for k, stage in enumerate(stages):
        path = folder / f"stage{k}.onnx"
        onnx.save(stage.model, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        written.append(Stage(file=path.name, sha256=digest, logits=logits_name(k)))
    return tuple(written)


def _describe(network: ExitNetwork, held: ImageSet, folder: Path) -> Network:
    """Stage files in `folder`, and the manifest's part that describes them."""
    stages = cut_stages(export_whole(network, held.image_shape), marker_names(network))
    mean, std = (
        tuple(round(value / 255.0, 8) for value in buffer.flatten().tolist())
        for buffer in (network.prepare.mean, network.prepare.std)
    )
    return Network(
        preparation=Preparation(mean=mean, std=std),
        classes=held.classes,
        boundaries=tuple(_boundary(network, k, stage) for k, stage in enumerate(stages)),
        stages=_write_stages(stages, folder),
    )


def _costs(
    network: ExitNetwork, image_shape: tuple[int, int, int], described: Network
) -> tuple[StageCost, ...]:
    sizes = tuple(boundary.size_bytes for boundary in described.boundaries)
    costs = stage_costs(network, image_shape, sizes)
    counted = sum(c.parameters + c.head_parameters + c.codec_parameters for c in costs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if counted != parameters:
        raise InvalidBundle("costs", f"count {counted} parameters of {parameters}")
    return costs


def _check(network: ExitNetwork, bundle: Bundle, held: ImageSet) -> dict[str, Any]:
    """The largest differences from PyTorch at every checked batch size.

    Raises InvalidBundle where the rule breaks.
    """
    record = {}
    for batch in _CHECKED_BATCHES:
        parity = compare(network, bundle, held.images[:_CHECKED_IMAGES], batch=batch)
        if not all(stage.holds for stage in parity.stages):
            raise InvalidBundle("stages", f"differ from the network at batch {batch}: {parity}")
        worst = max(stage.worst for stage in parity.stages)
        record[f"batch_{batch}"] = {
            "images": parity.images,
            "largest_error": float(np.format_float_scientific(worst, precision=1)),
            "flipped_codes": sum(stage.flips for stage in parity.stages),
        }
    return record


def _calibrate(bundle: Bundle, held: ImageSet, max_drop: float) -> Calibration:
    reference = run_stages(bundle, held.images, batch=_CALIBRATION_BATCH)
    sizes = [boundary.size_bytes for boundary in bundle.manifest.network.boundaries]
    return calibrate(reference.logits, held.labels, sizes, max_drop=max_drop)


def _build(network: ExitNetwork, held: ImageSet, exporting: Exporting, folder: Path) -> None:
    """A checked bundle in an empty folder."""
    described = _describe(network, held, folder)
    provenance: dict[str, Any] = dict(exporting.provenance)
    draft = Manifest(
        name=exporting.name,
        network=described,
        costs=_costs(network, held.image_shape, described),
        policies=constant_policies([1.0] * len(described.stages)),
        provenance=provenance,
    )
    write_manifest(folder, draft)
    bundle = load_bundle(folder)
    parity = _check(network, bundle, held)
    calibration = _calibrate(bundle, held, exporting.max_drop)
    provenance["export"] = {
        "command": exporting.command,
        "calibration": {"data": held.name, "sha256": held.sha256, **calibration.record},
        "parity": parity,
        "versions": {
            name: version(name)
            for name in ("offramp", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    }
    fields = dict(draft) | {"policies": calibration.policies, "provenance": provenance}
    write_manifest(folder, Manifest(**fields))


def write_bundle(network: ExitNetwork, out: Path, held: ImageSet, exporting: Exporting) -> Bundle:
    """The bundle of a network in evaluation mode, in `out`, loaded.

    held: samples that training did not see, for temperatures and thresholds
    (`offramp.training.run.held_out`). Every stage is run under onnxruntime at batch 1, 3 and 32 and
    held against PyTorch beside `out`, and the whole then takes its place in one rename. Raises
    InvalidBundle where a check fails, InvalidInput where `out` is not empty.
    """
    out = out.resolve()  # a rename replaces an empty folder, but not a link to one
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput("--out", f"{out} is not empty")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary, out.name)  # in it, for its own mode is 0700
        folder.mkdir()
        _build(network, held, exporting, folder)
        folder.rename(out)
    return load_bundle(out)
