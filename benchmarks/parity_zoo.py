"""Whether any network's stages say what PyTorch says: families that nobody wrote for this project, and some of its zoo.

python -m benchmarks.parity --zoo [--data FOLDER]

Each network gets two exits by the names of its submodules, nothing else; it is exported, cut and run under onnxruntime
at batch 1, 3 and 32, once without a codec and once with one at the first boundary. Held against PyTorch are every stage
on equal inputs, the stages end to end, and the last stage against the bare backbone, which never saw an exit. What a
row needs is the rule of `offramp.export.parity`; samples with a flipped code, which go on from other codes, are counted
beside it. Random networks have seen a few batches in training mode, so that their batch norms are not the identity.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import record
from benchmarks.families import FAMILIES, WEIGHTS, Family, samples_of, settle
from benchmarks.table import table, verdict
from offramp import data
from offramp.bundle import Bundle
from offramp.data import TensorSet
from offramp.errors import InvalidInput
from offramp.evaluation.reference import run_stages
from offramp.export.bundle import Exporting, write_bundle
from offramp.export.parity import TOLERANCE, compare, error
from offramp.export.whole import OPSET
from offramp.models import CodecSpec, ExitAt, ExitNetwork, HeadSpec, Preparation, attach
from offramp.models.features import logits_of
from offramp.models.zoo.cifar_resnet import MEAN, STD
from offramp.wire import TensorSpec

COMMAND = "python -m benchmarks.parity --zoo"
IMAGES = "cifar10_lossless_test.npz"
SEED = 1
CODED_SAMPLES = 96  # with a codec at the most
BATCHES = (1, 3, 32)
CODEC = CodecSpec(channels=4, bits=4, signed=True)
_CHUNK = 100  # samples per PyTorch pass


def _chunks(samples: NDArray[Any]) -> list[Tensor]:
    return list(torch.from_numpy(np.ascontiguousarray(samples)).split(_CHUNK))


def _logits(output: object) -> Tensor:
    logits = logits_of(output)
    assert isinstance(logits, Tensor)  # noqa: S101 (narrows the type)
    return logits


def build(
    family: Family, folder: Path, samples: NDArray[Any], *, codec: bool
) -> tuple[ExitNetwork, Tensor]:
    """The network with its exits, and the logits that its backbone gave before it had any."""
    torch.manual_seed(SEED)
    backbone = family.build(folder).eval()
    prepare = None if family.size == 0 else Preparation(MEAN, STD)

    def bare(batch: Tensor) -> Tensor:
        return _logits(backbone(batch if prepare is None else prepare(batch)))

    if not family.trained:
        settle(backbone, bare, samples)
    with torch.no_grad():
        logits = torch.cat([bare(chunk) for chunk in _chunks(samples)])
    first, second = family.exits
    network = attach(
        backbone,
        [
            ExitAt(at=first, head=HeadSpec(kind="max-mean"), codec=CODEC if codec else None),
            ExitAt(at=second, head=HeadSpec(kind="pool")),
        ],
        prepare=prepare,
        takes=TensorSpec(
            name="image" if prepare else "sequence",
            dtype=samples.dtype.name,
            shape=samples.shape[1:],
        ),
    ).eval()
    if codec:
        settle(network.codecs, network, samples)
    return network, logits


def _parity(network: ExitNetwork, bundle: Bundle, samples: NDArray[Any]) -> dict[str, Any]:
    found = {batch: compare(network, bundle, samples, batch=batch) for batch in BATCHES}
    return {
        # Not the share of samples with a flip, which a few dozen samples cannot tell.
        "holds": all(
            parity.worst <= TOLERANCE and all(stage.holds for stage in parity.stages)
            for parity in found.values()
        ),
        "stage_error": {
            str(batch): max(stage.worst for stage in parity.stages)
            for batch, parity in found.items()
        },
        "whole_error": {str(batch): parity.worst for batch, parity in found.items()},
        "codes": sum(stage.codes for stage in found[BATCHES[0]].stages),
        "flipped_codes": {
            str(batch): sum(stage.flips for stage in parity.stages)
            for batch, parity in found.items()
        },
        "flipped_samples": {str(batch): parity.flipped for batch, parity in found.items()},
    }


def _against_backbone(
    network: ExitNetwork, bundle: Bundle, samples: NDArray[Any], bare: Tensor
) -> dict[str, Any]:
    with torch.no_grad():
        last = torch.cat([network(chunk).logits[-1] for chunk in _chunks(samples)])
    return {
        "pytorch_equal_to_the_bit": torch.equal(last, bare),
        "last_stage_error": {
            str(batch): float(
                error(run_stages(bundle, samples, batch=batch).logits[-1], bare.numpy()).max()
            )
            for batch in BATCHES
        },
    }


def _boundaries(bundle: Bundle) -> list[dict[str, Any]]:
    return [
        {
            "tensors": [f"{t.name} {t.dtype} {list(t.shape)}" for t in boundary.tensors],
            "bytes": boundary.size_bytes,
        }
        for boundary in bundle.manifest.network.boundaries
    ]


def measured(family: Family, folder: Path, images: data.ImageSet, *, codec: bool) -> dict[str, Any]:
    """One row: the boundaries, and how far the stages are from PyTorch."""
    samples = samples_of(family, images.images[:CODED_SAMPLES] if codec else images.images)
    network, bare = build(family, folder, samples, codec=codec)
    held = TensorSet(
        name=images.name,
        samples=samples,
        labels=images.labels[: len(samples)],
        classes=tuple(str(k) for k in range(bare.shape[1])),
        sha256=images.sha256,
    )
    row: dict[str, Any] = {
        "network": family.name,
        "origin": family.origin,
        "parameters": sum(p.numel() for p in network.backbone.parameters()),
        "exits": list(family.exits),
        "codec": codec,
        "samples": len(held),
        "opset": OPSET,
    }
    with tempfile.TemporaryDirectory() as temporary:
        began = time.process_time()
        try:
            bundle = write_bundle(network, Path(temporary, "bundle"), held, Exporting(name="zoo"))
        except InvalidInput as exc:
            return row | {"refused": str(exc), "holds": False}
        row |= {"export_s": round(time.process_time() - began, 1)}
        row |= {"boundaries": _boundaries(bundle), **_parity(network, bundle, samples)}
        if not codec:
            found = _against_backbone(network, bundle, samples, bare)
            worst = max(found["last_stage_error"].values())
            holds = found["pytorch_equal_to_the_bit"] and worst <= TOLERANCE
            row |= {"backbone": found, "holds": row["holds"] and holds}
    return row


def _worst(errors: dict[str, float]) -> str:
    return " / ".join(f"{error:.1e}" for error in errors.values())


def _crossing(row: dict[str, Any]) -> str:
    return "; ".join(
        f"{' + '.join(boundary['tensors'])}: {boundary['bytes']:,} B"
        for boundary in row["boundaries"][1:]
    )


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    if "refused" in row:
        return (row["network"], row["refused"], "", "", "", "", verdict(holds=False))
    flips = sum(row["flipped_codes"].values())
    samples = max(row["flipped_samples"].values())
    codes = (
        f"{flips:,} of {row['codes'] * len(BATCHES):,}, in {samples} of {row['samples']} samples"
    )
    return (
        f"{row['network']} ({row['origin']}), {row['samples']:,} samples",
        f"behind {' and '.join(f'`{at}`' for at in row['exits'])}: {_crossing(row)}",
        _worst(row["stage_error"]),
        _worst(row["backbone"]["last_stage_error"]) if "backbone" in row else "",
        codes if row["codec"] else "no codec",
        row["export_s"],
        verdict(holds=row["holds"]),
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    rows = found["networks"]
    equal = [r["backbone"]["pytorch_equal_to_the_bit"] for r in rows if "backbone" in r]
    said = (
        f"`{record['command']}`: two exits by the names of submodules, exported to opset {OPSET}, cut, and run under "
        f"onnxruntime at batch {', '.join(map(str, BATCHES))}. Errors are the largest |a - b| / max(1, |b|) at each of "
        f"these, b being PyTorch's; the bar is {found['tolerance']:.0e}. Codes may be one level off where the value "
        "before rounding lies at a step; samples with one go on from other codes, and are counted apart. Without a "
        "codec the last exit's logits in PyTorch are those of the bare backbone to the bit in "
        f"{sum(equal)} of {len(equal)} networks. Seconds are of a processor, to write the bundle, its own check of "
        "parity included."
    )
    headings = (
        "network",
        "what crosses, a sample",
        "stages on equal inputs",
        "last stage against the bare backbone",
        "codes one level off",
        "export, s",
        "bar",
    )
    return f"{said}\n\n{table(headings, [_cells(row) for row in rows])}"


def _folder(given: Path | None) -> Path:
    """Where the images and weights lie. Raises InvalidInput where that is not said."""
    folder = given or (Path(os.environ["OFFRAMP_DATA"]) if "OFFRAMP_DATA" in os.environ else None)
    if folder is None:
        raise InvalidInput("--data", f"say where {IMAGES} and {WEIGHTS} lie, or set OFFRAMP_DATA")
    if not (folder / WEIGHTS).exists():
        raise InvalidInput("--data", f"{folder} lacks {WEIGHTS}")
    return folder


def run(given: Path | None) -> int:
    """Measure all networks, print a line each and write the results; 1 where a rule is broken."""
    folder = _folder(given)
    images = data.load("cifar10-lossless", "test", folder)
    rows = []
    for family in FAMILIES:
        for codec in (False, True):
            row = measured(family, folder, images, codec=codec)
            rows.append(row)
            print(" | ".join(map(str, _cells(row))), flush=True)
    holds = all(row["holds"] for row in rows)
    weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    record.write(
        "parity_zoo",
        {"tolerance": TOLERANCE, "holds": holds, "networks": rows},
        command=COMMAND,
        data={**images.sha256, WEIGHTS: weights},
        seeds=[SEED],
        packages=("onnxscript", "pytorchcv", "transformers"),
    )
    return 0 if holds else 1
