"""Stages as onnxruntime sessions, and what one pass of a batch through a stage yields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import devnull
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.check import check_stage
from offramp.errors import InvalidBundle


class StageOutputs(NamedTuple):
    """Logits (N, C) of the stage's exit, the tensors of the next boundary, each with N in front, and any gate (N,)."""

    logits: NDArray[np.float32]
    boundary: tuple[NDArray[Any], ...]
    gate: NDArray[np.float32] | None = None


def open_session(bundle: Bundle, stage: int, *, threads: int = 1) -> ort.InferenceSession:
    """A session on a stage, opened from the bytes whose hash was checked, with the manifest's tensors.

    Raises InvalidBundle naming the file where the stage is not held, is no model that is whole in its one file, or
    is not what the manifest says.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in a file beside the model would be bytes that nobody hashed; in this folder there is no file.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", devnull
    )
    content = bundle.stage_bytes(stage)
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common base below Exception
        raise InvalidBundle(str(bundle.stage_path(stage)), "onnxruntime cannot open it") from exc
    check_stage(bundle.manifest, stage, session.get_inputs(), session.get_outputs())
    return session


class StageRunner:
    """Opens the named stages of a bundle and runs batches through them, one at a time.

    Raises InvalidBundle where a stage is not held, is no model, or is not what the manifest says.
    """

    def __init__(self, bundle: Bundle, stages: Iterable[int], *, threads: int = 1) -> None:
        self._manifest = bundle.manifest
        self._sessions = {stage: open_session(bundle, stage, threads=threads) for stage in stages}

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that are open."""
        return tuple(self._sessions)

    def run(self, stage: int, tensors: Sequence[NDArray[Any]]) -> StageOutputs:
        """One batch through a stage: the tensors of its boundary, (N, ...) each."""
        network = self._manifest.network
        last = stage + 1 == len(network.stages)
        following = () if last else network.boundaries[stage + 1].tensors
        inputs = {
            spec.name: tensor
            for spec, tensor in zip(network.boundaries[stage].tensors, tensors, strict=True)
        }
        names = [network.stages[stage].logits, *(spec.name for spec in following)]
        gate = network.stages[stage].gate
        if gate is not None:
            names.append(gate)
        logits, *others = self._sessions[stage].run(names, inputs)
        if gate is None:
            return StageOutputs(logits, tuple(others))
        return StageOutputs(logits, tuple(others[:-1]), others[-1])
