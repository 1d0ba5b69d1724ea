"""Stages as onnxruntime sessions, and what one pass of a batch through a stage yields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.check import check_stage
from offramp.errors import InvalidBundle


class StageOutputs(NamedTuple):
    """Logits (N, C) of the stage's exit, and the tensors of the next boundary, each with N in front."""

    logits: NDArray[np.float32]
    boundary: tuple[NDArray[Any], ...]


class StageRunner:
    """Opens the named stages of a bundle and runs batches through them, one at a time.

    Raises InvalidBundle where a stage is not held, is no model, or is not what the manifest says.
    """

    def __init__(self, bundle: Bundle, stages: Iterable[int], *, threads: int = 1) -> None:
        self._manifest = bundle.manifest
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions: dict[int, ort.InferenceSession] = {}
        for stage in stages:
            path = bundle.stage_path(stage)
            try:
                session = ort.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as exc:  # onnxruntime's errors have no common base below Exception
                raise InvalidBundle(str(path), "onnxruntime cannot open it") from exc
            check_stage(bundle.manifest, stage, session.get_inputs(), session.get_outputs())
            self._sessions[stage] = session

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
        logits, *boundary = self._sessions[stage].run(names, inputs)
        return StageOutputs(logits, tuple(boundary))
