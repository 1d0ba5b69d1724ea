"""Stages as onnxruntime sessions, and what one pass of a batch through a stage yields."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.check import check_stage
from offramp.bundle.graph import check_graph
from offramp.errors import InvalidBundle, InvalidSettings
from offramp.serving.compute import (
    check_arithmetic,
    check_provider,
    providers,
    session_options,
)
from offramp.serving.optimised import keep_graph, kept_graph, read_graph
from offramp.serving.settings import Inference
from offramp.wire import prepare_decoding


class StageOutputs(NamedTuple):
    """Logits (N, C) of the stage's exit, the tensors of the next boundary, each with N in front, and any gate (N,)."""

    logits: NDArray[np.float32]
    boundary: tuple[NDArray[Any], ...]
    gate: NDArray[np.float32] | None = None


def open_session(
    bundle: Bundle, stage: int, inference: Inference | None = None
) -> ort.InferenceSession:
    """A session on a stage, opened from the bytes whose hash and graph were checked, with the manifest's tensors.

    inference: how it computes; by default one thread of the processor. Raises InvalidBundle naming the file where the
    stage is not held, holds what no stage may, or is not what the manifest says; InvalidSettings where this machine
    cannot compute as asked, or its folder of optimised graphs cannot be written.
    """
    inference = inference or Inference()
    content, described = bundle.stage_bytes(stage), bundle.manifest.network.stages[stage]
    check_graph(content, str(bundle.stage_path(stage)))
    check_arithmetic(inference, described.arithmetic)
    try:
        if inference.cache:
            session = _kept(content, described.sha256, inference)
        else:
            session = _opened(content, session_options(inference), inference)
    except InvalidSettings:
        raise
    except Exception as exc:  # onnxruntime's errors have no common base below Exception
        raise InvalidBundle(str(bundle.stage_path(stage)), "onnxruntime cannot open it") from exc
    check_provider(inference, session)
    check_stage(bundle.manifest, stage, session.get_inputs(), session.get_outputs())
    return session


def _opened(
    content: bytes, options: ort.SessionOptions, inference: Inference
) -> ort.InferenceSession:
    return ort.InferenceSession(content, options, providers=providers(inference))


def _kept(content: bytes, stage_sha256: str, inference: Inference) -> ort.InferenceSession:
    """A session on the stage's optimised graph, which is kept for the next time where it was not."""
    path = kept_graph(inference, stage_sha256)
    graph = read_graph(path)
    if graph is None:
        options = session_options(inference)
        return keep_graph(path, options, lambda: _opened(content, options, inference))
    as_it_is = inference.model_copy(update={"optimisation": "none"})
    return _opened(graph, session_options(as_it_is), inference)


class _Stage(NamedTuple):
    """A session with the names of what goes in and comes out: logits, the gate if it has one, the next boundary."""

    session: ort.InferenceSession
    takes: tuple[str, ...]
    gives: list[str]
    has_gate: bool


class StageRunner:
    """Opens the named stages of a bundle and runs batches through them, one at a time.

    Raises as `open_session`.
    """

    def __init__(
        self, bundle: Bundle, stages: Iterable[int], inference: Inference | None = None
    ) -> None:
        network = bundle.manifest.network
        self._bundle = bundle
        self._stages = {}
        for k in stages:
            session = open_session(bundle, k, inference)
            self._stages[k] = _Stage(
                session,
                tuple(tensor.name for tensor in network.boundaries[k].tensors),
                [output.name for output in session.get_outputs()],
                network.stages[k].gate is not None,
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that are open."""
        return tuple(self._stages)

    def warm_up(self) -> dict[int, float]:
        """Seconds that one sample takes in each stage, once onnxruntime has allocated what it needs.

        Where samples may come as encoded images, the decoders are then at hand, too. Raises InvalidBundle where a stage
        cannot compute on zeros.
        """
        if 0 in self._stages and self._bundle.manifest.network.takes.dtype == "uint8":
            prepare_decoding()
        return {k: self._second_of_two(k) for k in self._stages}

    def _second_of_two(self, stage: int) -> float:
        zeros = [
            np.zeros((1, *one.shape), one.dtype)
            for one in self._bundle.manifest.network.boundaries[stage].tensors
        ]
        try:
            self.run(stage, zeros)
        except Exception as exc:
            raise InvalidBundle(
                str(self._bundle.stage_path(stage)), "cannot compute on a sample of zeros"
            ) from exc
        began = time.perf_counter()
        self.run(stage, zeros)
        return time.perf_counter() - began

    def run(self, stage: int, tensors: Sequence[NDArray[Any]]) -> StageOutputs:
        """One batch through a stage: the tensors of its boundary, (N, ...) each."""
        session, takes, gives, has_gate = self._stages[stage]
        logits, *others = session.run(gives, dict(zip(takes, tensors, strict=True)))
        if has_gate:
            return StageOutputs(logits, tuple(others[1:]), others[0])
        return StageOutputs(logits, tuple(others))
