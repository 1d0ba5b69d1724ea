"""From a float32 bundle to one whose stages compute in int8: another network, with its own digest.

    bundle --half of the held-out samples: ranges, arrangements--> int8 stages
           --the same half: temperatures, thresholds--> policies --> a new bundle, without certificate

Parity with PyTorch is not asked of it: rounding to 8 bits is what it is for. What is recorded in its
place is how often each exit says what the float32 stages say, on held-out samples; and the new bundle
is its own reference from then on, for deployments and for `offramp calibrate`, which certifies it on
the other half. The samples that decided it are listed in quantised_on.bin, so that no certificate
will ever be made on them.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from offramp.bundle import Bundle, Manifest, load_bundle, write_manifest
from offramp.bundle.drafting import drafted
from offramp.data.fingerprints import QUANTISED_ON, TRAINED_ON, write_fingerprints
from offramp.data.images import hold_out
from offramp.data.unseen import SPLIT_SEED, Unseen
from offramp.errors import InvalidBundle, InvalidInput
from offramp.evaluation.observation import observe
from offramp.evaluation.reference import run_stages
from offramp.export.int8_choice import Outcome, choose, outcome
from offramp.export.int8_stage import METHOD
from offramp.export.policy import Calibration, calibrate

_FEWEST = 100
_OTHER_BATCHES, _CHECKED, _MOST_OTHER = (1, 3, 32), 96, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantising:
    """The new bundle's name; how many held-out samples decide its stages; the accuracy that it may cost.

    max_loss: of any exit, by int8; max_drop: of the default policy's thresholds, as in export.
    """

    name: str
    samples: int = 2000
    max_loss: float = 0.005
    max_drop: float = 0.001
    command: str = ""

    def __post_init__(self) -> None:
        if self.samples < _FEWEST:
            raise InvalidInput("--samples", f"{self.samples}, but ranges take at least {_FEWEST}")
        for flag, share in (("--max-loss", self.max_loss), ("--max-drop", self.max_drop)):
            if not 0 <= share < 1:
                raise InvalidInput(flag, f"{share} is no share of at least 0, below 1")


def write_int8(bundle: Bundle, out: Path, unseen: Unseen, quantising: Quantising) -> Bundle:
    """The bundle with int8 stages, in `out`, loaded: no certificate, and policies fitted anew.

    unseen: labelled samples that training did not see; the half that `offramp calibrate` fits on by
    default is used, and the other is not looked at. Raises InvalidInput where there are too few,
    without labels, where no stage can be int8 within the loss allowed, and where `out` is not empty;
    InvalidBundle where a stage is missing or int8 already.
    """
    _check_source(bundle)
    fit = _fit_part(unseen)
    share = min(1.0, quantising.samples / len(fit))
    deciding = fit.take(hold_out(len(fit), share, SPLIT_SEED)[1])
    with drafted(out) as folder, tempfile.TemporaryDirectory() as work:
        source = outcome(bundle, deciding)
        found, stages = choose(source, deciding, quantising.max_loss, Path(work))
        if found is source:
            text = f"no stage can be int8 and keep within {quantising.max_loss:g} of its accuracy"
            raise InvalidInput("--max-loss", text)
        _check_batches(found, deciding)
        for k in range(len(stages)):
            path = found.bundle.stage_path(k)
            shutil.copyfile(path, folder / path.name)
        if (bundle.folder / TRAINED_ON).exists():
            shutil.copyfile(bundle.folder / TRAINED_ON, folder / TRAINED_ON)
        digest = write_fingerprints(folder / QUANTISED_ON, deciding.samples)
        calibration = _calibrated(found.bundle, fit, quantising.max_drop)
        record = {
            "command": quantising.command,
            "method": METHOD,
            "max_loss": quantising.max_loss,
            "data": {
                "name": unseen.name,
                "sha256": unseen.sha256,
                "samples": len(deciding),
                "fingerprints": digest,
            },
            "stages": stages,
            "held_out": _compared(source, found),
            "calibration": calibration.record,
            "versions": {name: version(name) for name in ("offramp", "onnx", "onnxruntime")},
        }
        changed = _changed(bundle, quantising, calibration, record)
        write_manifest(folder, Manifest(**(dict(found.bundle.manifest) | changed)))
    return load_bundle(out)


def _check_source(bundle: Bundle) -> None:
    network = bundle.manifest.network
    if len(bundle.held) != len(network.stages):
        held = list(bundle.held)
        raise InvalidBundle(f"{bundle.folder}: stages", f"only {held} of {len(network.stages)}")
    if any(stage.arithmetic != "float32" for stage in network.stages):
        raise InvalidBundle(f"{bundle.folder}: stages", "are int8 already; take the float32 bundle")


def _fit_part(unseen: Unseen) -> Unseen:
    if unseen.labels is None:
        raise InvalidInput(f"{unseen.name}: y", "is missing: accuracy needs labels")
    fit = unseen.take(unseen.split().fit)
    if len(fit) < _FEWEST:
        text = f"{len(unseen)} samples, of which half decide: at least {2 * _FEWEST} are needed"
        raise InvalidInput(unseen.name, text)
    return fit


def _calibrated(bundle: Bundle, fit: Unseen, max_drop: float) -> Calibration:
    observed = observe(bundle, fit.samples, fit.labels, "flops")
    sizes = [boundary.size_bytes for boundary in bundle.manifest.network.boundaries]
    if observed.labels is None:
        raise ValueError("labels: policies are fitted to them")
    return calibrate(observed.logits, observed.labels, sizes, max_drop=max_drop)


def _check_batches(found: Outcome, deciding: Unseen) -> None:
    """Pass where the stages say the same at other batch sizes.

    A value at a step of 8 bits may fall to either side, as a code may; a label seldom goes with it.
    """
    few = deciding.samples[:_CHECKED]
    for batch in _OTHER_BATCHES:
        again = run_stages(found.bundle, few, batch=batch)
        for k, (a, b) in enumerate(zip(again.logits, found.reference.logits, strict=True)):
            off = float((a.argmax(1) != b[: len(a)].argmax(1)).mean())
            if off > _MOST_OTHER:
                text = f"at batch {batch} {off:.0%} of the samples get another label"
                raise InvalidBundle(f"stages.{k}", text)


def _compared(source: Outcome, found: Outcome) -> dict[str, Any]:
    """What int8 changed, on the samples that decided: nothing to report to anyone as a test."""
    return {
        "accuracy_float32": source.accuracy,
        "accuracy": found.accuracy,
        "agreement": found.agreement(source),
        "codes_off": found.codes_off(source),
    }


def _changed(
    bundle: Bundle, quantising: Quantising, calibration: Calibration, record: dict[str, Any]
) -> dict[str, Any]:
    """Another name, policies and provenance: what was exported and calibrated was the float32 bundle."""
    provenance = dict(bundle.manifest.provenance)
    provenance.pop("calibrations", None)
    source = {"name": bundle.manifest.name, "network": bundle.digest}
    source["export"] = provenance.pop("export", None)
    return {
        "name": quantising.name,
        "policies": calibration.policies,
        "provenance": provenance | {"quantisation": {"source": source, **record}},
    }
