"""Whether onnxruntime says what PyTorch says: per stage on equal inputs, and end to end.

Two programs add floating-point numbers in different orders, so that a value just at a quantiser's
step may fall to either side. Hence the rule: logits within 1e-4 * max(1, |b|); codes equal, except
where the value before rounding lies within 1e-3 of a step, and then one level apart. End to end
such a flip changes what follows, so images with one are counted apart, and may be at most 1 % of
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.errors import InvalidBundle
from offramp.evaluation.reference import Reference, run_stages
from offramp.export.whole import feature_names
from offramp.models import ExitNetwork, ExitOutputs
from offramp.models.features import Tensors

TOLERANCE, STEP_REACH, FLIPPED_SHARE = 1e-4, 1e-3, 0.01
_CHUNK = 500  # samples per PyTorch pass, for memory only


@dataclass(slots=True)
class StageParity:
    """One stage on equal inputs; errors are |a - b| / max(1, |b|)."""

    worst: float = 0.0  # of its logits, and of the features behind it where they have no codec
    codes: int = 0
    flips: int = 0  # codes one level off, at a step
    violations: int = 0  # codes off in any other way

    @property
    def holds(self) -> bool:
        """Whether the stage keeps the rule."""
        return self.worst <= TOLERANCE and not self.violations


@dataclass(slots=True)
class Parity:
    """N samples through both programs."""

    images: int
    stages: tuple[StageParity, ...]
    flipped: int = 0  # images with a flipped code at any boundary, end to end
    worst: float = 0.0  # of the logits of all others, end to end

    @property
    def holds(self) -> bool:
        """Whether every stage and the whole keep the rule."""
        whole = self.worst <= TOLERANCE and self.flipped <= FLIPPED_SHARE * self.images
        return whole and all(stage.holds for stage in self.stages)


def error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest |a - b| / max(1, |b|) of each row: twice (N, ...) -> (N,).

    Infinite where one is NaN, or infinite and the other is not equal to it.
    """
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scaled = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    scaled = np.where(a == b, 0.0, np.nan_to_num(scaled, nan=np.inf, posinf=np.inf))
    return np.asarray(scaled.reshape(len(a), -1).max(axis=1))


def judge_codes(
    found: NDArray[np.uint8], levels: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which codes are off by one at a step, and which in any other way.

    levels: PyTorch's, before rounding. Both of any one shape.

    >>> judge_codes(np.uint8([2, 3, 4]), np.float32([2.4995, 2.1, 4.0]))
    (array([False, False, False]), array([False,  True, False]))
    """
    off = np.abs(found.astype(np.int64) - np.rint(levels).astype(np.int64))
    at_step = np.abs(levels - (np.floor(levels) + 0.5)) <= STEP_REACH
    flips = (off == 1) & at_step
    return flips, (off > 0) & ~flips


def _sent(
    boundary: int, tensors: Mapping[str, NDArray[Any]], rows: slice, features: Tensors
) -> tuple[torch.Tensor, ...]:
    """What PyTorch goes on from behind a boundary: codes, or its features as onnxruntime sent them.

    features: PyTorch's. One that was not sent is not needed behind, and is zero.
    """
    if (codes := tensors.get(f"codes_{boundary}")) is not None:
        return (torch.from_numpy(codes[rows]),)
    return tuple(
        torch.from_numpy(tensors[name][rows]) if name in tensors else torch.zeros_like(own)
        for name, own in zip(feature_names(boundary, len(features)), features, strict=True)
    )


def _passes(
    network: ExitNetwork, inputs: NDArray[Any], reference: Reference
) -> Iterator[tuple[slice, ExitOutputs, ExitOutputs]]:
    """Rows, PyTorch's outputs on equal inputs per stage, and end to end."""
    with torch.no_grad():
        for start in range(0, len(inputs), _CHUNK):
            rows = slice(start, start + _CHUNK)
            samples = torch.tensor(inputs[rows])  # a copy: a data set may be read-only
            free = network(samples)
            given = {
                k: _sent(k, tensors, rows, features)
                for k, (tensors, features) in enumerate(
                    zip(reference.boundaries, free.features, strict=True), start=1
                )
            }
            yield rows, network(samples, given), free


def _own_outputs(
    k: int, reference: Reference, equal: ExitOutputs
) -> Iterator[tuple[NDArray[np.float32], torch.Tensor]]:
    """What stage k says in both programs: logits, gate, and features where they cross as such."""
    yield reference.logits[k], equal.logits[k]
    if k == len(reference.boundaries):
        return
    found, wanted = reference.gates[k], equal.gates[k]
    if found is not None and wanted is not None:
        yield found, wanted
    features = equal.features[k]
    for name, tensor in zip(feature_names(k + 1, len(features)), features, strict=True):
        if name in reference.boundaries[k]:
            yield reference.boundaries[k][name], tensor


def _judge_stage(
    stage: StageParity, k: int, equal: ExitOutputs, reference: Reference, rows: slice
) -> None:
    for found, wanted in _own_outputs(k, reference, equal):
        stage.worst = max(stage.worst, float(error(found[rows], wanted.numpy()).max()))
    levels = equal.levels[k] if k < len(equal.levels) else None
    if levels is not None:
        codes = reference.boundaries[k][f"codes_{k + 1}"][rows]
        flips, others = judge_codes(codes, levels.numpy())
        stage.codes += codes.size
        stage.flips += int(flips.sum())
        stage.violations += int(others.sum())


def _check_finite(reference: Reference) -> None:
    for k, logits in enumerate(reference.logits):
        found = {"logits": logits, "gate": reference.gates[k]}
        if k < len(reference.boundaries):
            found |= reference.boundaries[k]
        for name, array in found.items():
            if array is None or np.isfinite(array).all():
                continue
            broken = len(array) - sum(bool(np.isfinite(row).all()) for row in array)
            text = f"its {name} is not finite for {broken} of {len(array)} samples"
            raise InvalidBundle(f"stages.{k}", text)


def compare(network: ExitNetwork, bundle: Bundle, inputs: NDArray[Any], *, batch: int) -> Parity:
    """A bundle's stages under onnxruntime, `batch` samples at a time, against PyTorch.

    inputs: (N, H, W, C) uint8, or raw (N, ...). The network is in evaluation mode. Raises
    InvalidBundle naming the stage where what it says is not finite: a tier would refuse it.
    """
    reference = run_stages(bundle, inputs, batch=batch)
    _check_finite(reference)
    result = Parity(len(inputs), tuple(StageParity() for _ in reference.logits))
    for rows, equal, free in _passes(network, inputs, reference):
        for k, stage in enumerate(result.stages):
            _judge_stage(stage, k, equal, reference, rows)
        flipped = np.zeros(len(inputs[rows]), np.bool_)
        for k, codes in enumerate(free.codes):
            if codes is not None:
                off = reference.boundaries[k][f"codes_{k + 1}"][rows] != codes.numpy()
                flipped |= off.reshape(len(off), -1).any(axis=1)
        worst = np.max(
            [error(a[rows], b.numpy()) for a, b in zip(reference.logits, free.logits, strict=True)],
            axis=0,
        )
        result.flipped += int(flipped.sum())
        result.worst = max(result.worst, float(worst[~flipped].max(initial=0.0)))
    return result
