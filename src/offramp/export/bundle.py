"""From a network to a bundle: export, cut, calibrate, check, and only then put in place.

network --> whole graph --> stages --> draft bundle --> parity --> calibration --> bundle
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
from offramp.bundle.drafting import drafted
from offramp.bundle.manifest import NAME_PATTERN
from offramp.data import SampleSet
from offramp.data.fingerprints import TRAINED_ON, unpacked
from offramp.errors import InvalidBundle, InvalidInput
from offramp.evaluation.reference import Reference, run_stages
from offramp.export.coding import fit_coding
from offramp.export.cost import stage_costs
from offramp.export.cut import CutStage, cut_stages
from offramp.export.parity import compare
from offramp.export.policy import Calibration, calibrate, constant_policies
from offramp.export.whole import ExitNames, export_whole
from offramp.models import ExitNetwork

_CHECKED_BATCHES, _CHECKED_SAMPLES = (1, 3, 32), 96
_CALIBRATION_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporting:
    """The bundle's name, the accuracy that thresholds may cost, whether codes get tables for entropy coding.

    Also the command that asked, what made the network, and the file that lists what it was trained on
    (`write_fingerprints` of `offramp.data.fingerprints`, or a run's trained_on.bin): it is put beside
    the manifest, and its SHA-256 into the provenance, so that no certificate is made on these samples.
    """

    name: str
    entropy_coding: bool = False
    max_drop: float = 0.001
    command: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            text = f"{self.name!r} is not made of letters, digits, dots, dashes and underscores"
            raise InvalidInput("name", text)
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


def _write_stage(model: onnx.ModelProto, names: ExitNames, path: Path) -> Stage:
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Stage(file=path.name, sha256=digest, logits=names.logits, gate=names.gate)


def _preparation(network: ExitNetwork) -> Preparation | None:
    if network.prepare is None:
        return None
    mean, std = (
        tuple(round(value / 255.0, 8) for value in buffer.flatten().tolist())
        for buffer in (network.prepare.mean, network.prepare.std)
    )
    return Preparation(mean=mean, std=std)


def _describe(network: ExitNetwork, held: SampleSet, folder: Path) -> Network:
    """Stage files in `folder`, and the manifest's part that describes them."""
    dtype, shape = held.samples.dtype.name, held.samples.shape[1:]
    if (dtype, shape) != (network.takes.dtype, network.takes.shape):
        wanted = f"{network.takes.dtype} {list(network.takes.shape)}"
        raise InvalidInput("samples", f"{dtype} {list(shape)} each, but the network takes {wanted}")
    whole = export_whole(network)
    stages = cut_stages(whole)
    return Network(
        preparation=_preparation(network),
        classes=held.classes,
        boundaries=tuple(_boundary(network, k, stage) for k, stage in enumerate(stages)),
        stages=tuple(
            _write_stage(stage.model, names, folder / f"stage{k}.onnx")
            for k, (stage, names) in enumerate(zip(stages, whole.exits, strict=True))
        ),
    )


def _costs(network: ExitNetwork, described: Network) -> tuple[StageCost, ...]:
    sizes = tuple(boundary.size_bytes for boundary in described.boundaries)
    costs = stage_costs(network, sizes)
    counted = sum(c.parameters + c.head_parameters + c.codec_parameters for c in costs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if counted != parameters:
        raise InvalidBundle("costs", f"count {counted} parameters of {parameters}")
    return costs


def _check(network: ExitNetwork, bundle: Bundle, held: SampleSet) -> dict[str, Any]:
    """The largest differences from PyTorch at every checked batch size.

    Raises InvalidBundle where the rule breaks.
    """
    record = {}
    for batch in _CHECKED_BATCHES:
        parity = compare(network, bundle, held.samples[:_CHECKED_SAMPLES], batch=batch)
        if not all(stage.holds for stage in parity.stages):
            raise InvalidBundle("stages", f"differ from the network at batch {batch}: {parity}")
        worst = max(stage.worst for stage in parity.stages)
        record[f"batch_{batch}"] = {
            "images": parity.images,
            "largest_error": float(np.format_float_scientific(worst, precision=1)),
            "flipped_codes": sum(stage.flips for stage in parity.stages),
        }
    return record


def _calibrate(
    bundle: Bundle, reference: Reference, held: SampleSet, max_drop: float
) -> Calibration:
    sizes = [boundary.size_bytes for boundary in bundle.manifest.network.boundaries]
    return calibrate(reference.logits, held.labels, sizes, max_drop=max_drop)


def _provenance(exporting: Exporting, folder: Path) -> dict[str, Any]:
    """What made the network, naming the list of what it was trained on, which `folder` then holds.

    Raises InvalidInput where the list cannot be read, lists nothing or is not the provenance's own.
    """
    provenance: dict[str, Any] = dict(exporting.provenance)
    if exporting.trained_on is None:
        return provenance
    field = f"trained_on: {exporting.trained_on}"
    try:
        content = exporting.trained_on.read_bytes()
    except OSError as exc:
        raise InvalidInput(field, f"cannot be read: {exc.strerror}") from exc
    if len(unpacked(content, field)) == 0:
        raise InvalidInput(field, "lists no sample")
    digest = hashlib.sha256(content).hexdigest()
    data = provenance.get("data", {})
    if not isinstance(data, Mapping):
        raise InvalidInput("provenance.data", "is no table that could name what was trained on")
    if data.get("fingerprints", digest) != digest:
        raise InvalidInput(field, "its SHA-256 is not provenance.data.fingerprints")
    (folder / TRAINED_ON).write_bytes(content)
    return provenance | {"data": {**data, "fingerprints": digest}}


def _build(network: ExitNetwork, held: SampleSet, exporting: Exporting, folder: Path) -> None:
    """A checked bundle in an empty folder."""
    provenance = _provenance(exporting, folder)
    described = _describe(network, held, folder)
    draft = Manifest(
        name=exporting.name,
        network=described,
        costs=_costs(network, described),
        policies=constant_policies([1.0] * len(described.stages)),
        provenance=provenance,
    )
    write_manifest(folder, draft)
    bundle = load_bundle(folder)
    parity = _check(network, bundle, held)
    reference = run_stages(bundle, held.samples, batch=_CALIBRATION_BATCH)
    calibration = _calibrate(bundle, reference, held, exporting.max_drop)
    coding: dict[str, Any] = {}
    if exporting.entropy_coding:
        described, coding = fit_coding(described, reference.boundaries)
    provenance["export"] = {
        "command": exporting.command,
        "calibration": {"data": held.name, "sha256": held.sha256, **calibration.record},
        "parity": parity,
        **({"entropy_coding": coding} if coding else {}),
        "versions": {
            name: version(name)
            for name in ("offramp", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    }
    fields = dict(draft) | {
        "network": described,
        "policies": calibration.policies,
        "provenance": provenance,
    }
    write_manifest(folder, Manifest(**fields))


def write_bundle(network: ExitNetwork, out: Path, held: SampleSet, exporting: Exporting) -> Bundle:
    """The bundle of a network in evaluation mode, in `out`, loaded.

    held: samples that training did not see, for temperatures and thresholds
    (`offramp.training.run.held_out`). Every stage is run under onnxruntime at batch 1, 3 and 32 and
    held against PyTorch beside `out`, and the whole then takes its place in one rename. Raises
    InvalidBundle where a check fails, InvalidInput where `out` is not empty or something given does not fit.
    """
    with drafted(out) as folder:
        _build(network, held, exporting, folder)
    return load_bundle(out)
