"""The reference for deployments: all stages of a bundle, in this process, on onnxruntime.

    images -> stage 0 -> stage 1 -> ... -> logits of every exit, tensors of every boundary

Nothing leaves early here; `answer` says afterwards where each sample would have left under a
policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.exits import ExitPolicy
from offramp.serving.runner import open_session


class Reference(NamedTuple):
    """What all stages say of N images."""

    logits: tuple[NDArray[np.float32], ...]  # E times (N, classes)
    boundaries: tuple[Mapping[str, NDArray[Any]], ...]  # boundaries 1 .. E - 1: (N, ...) by tensor
    gates: tuple[NDArray[np.float32] | None, ...] = ()  # (N,) per exit, None where it has none


class Answers(NamedTuple):
    """Where N samples leave under a policy, and with what."""

    exits: NDArray[np.int64]  # (N,) the exit that answers
    labels: NDArray[np.int64]  # (N,)
    confidence: NDArray[np.float64]  # (N,) that exit's


def run_stages(bundle: Bundle, images: NDArray[Any], *, batch: int) -> Reference:
    """Every stage on every sample, `batch` at a time: images (N, H, W, C) uint8, or raw (N, ...) -> Reference of N.

    Raises InvalidBundle where the bundle does not hold all of its stages, ValueError where there
    are no images.
    """
    if len(images) == 0:
        raise ValueError("images: there are none")
    stages = bundle.manifest.network.stages
    sessions = [open_session(bundle, k) for k in range(len(stages))]
    inputs = bundle.manifest.network.boundaries[0].tensors[0].name
    pieces: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(images), batch):
        tensors = {inputs: images[start : start + batch]}
        for session, stage in zip(sessions, stages, strict=True):
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(names, tensors), strict=True))
            for name, value in outputs.items():
                pieces.setdefault(name, []).append(value)
            tensors = {n: v for n, v in outputs.items() if n not in (stage.logits, stage.gate)}
    whole = {name: np.concatenate(values) for name, values in pieces.items()}
    return Reference(
        tuple(whole[stage.logits] for stage in stages),
        tuple(
            {tensor.name: whole[tensor.name] for tensor in boundary.tensors}
            for boundary in bundle.manifest.network.boundaries[1:]
        ),
        tuple(None if stage.gate is None else whole[stage.gate] for stage in stages),
    )


def answer(
    policy: ExitPolicy,
    logits: Sequence[NDArray[np.float32]],
    *,
    gates: Sequence[NDArray[np.float32] | None] = (),
    time_left_s: Sequence[NDArray[np.float64]] = (),
) -> Answers:
    """Where each sample leaves: logits of every exit, E times (N, classes) -> Answers of N.

    gates, time_left_s: (N,) per exit, for the rules that go by them. Raises ValueError where the
    policy goes by a gate that is not given.
    """
    count = len(logits[-1])
    exits = np.full(count, -1, np.int64)
    labels = np.zeros(count, np.int64)
    confidence = np.zeros(count)
    for k, decision in enumerate(policy.decisions(logits, gates=gates, time_left_s=time_left_s)):
        here = decision.leaves & (exits < 0)
        exits[here], confidence[here] = k, decision.confidence[here]
        labels[here] = decision.labels[here]
    return Answers(exits, labels, confidence)
