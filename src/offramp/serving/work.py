"""A sample on its way through this tier, and what a batch of them becomes in a stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Boundary, Manifest
from offramp.errors import InvalidInput
from offramp.exits import Decision, ExitPolicy
from offramp.exits.confidence import labels_of
from offramp.rpc import Payload, Sample
from offramp.rpc.payload import joined_arrays, payload_arrays, tensors_payload
from offramp.serving.pace import Stretch
from offramp.serving.runner import StageOutputs, StageRunner
from offramp.wire import is_finite

if TYPE_CHECKING:
    from offramp.serving.held import Held


class ExitAnswer(NamedTuple):
    """What an exit says of one sample: label, calibrated probabilities (C,), and whether the policy lets it leave.

    browns_out: whether it leaves all the same, because the tier has too much to do.
    """

    exit: int
    label: int
    probabilities: NDArray[np.float32]
    leaves: bool
    browns_out: bool = False


@dataclass(slots=True)
class Work:
    """One sample under way: where it is, the answer so far, and what it has cost here."""

    held: Held
    sample: Sample
    policy: ExitPolicy
    boundary: int
    arrays: tuple[NDArray[Any], ...] | None = None  # of the boundary; None: still the payload
    exit_state: bytes = b""  # what the policy has of the exits passed, as it travels
    best: ExitAnswer | None = None
    queued_s: float = 0.0
    computed_s: float = 0.0
    batch: int = 0

    @property
    def is_of_one_policy(self) -> bool:
        """Whether the tiers before, if any, said by which network and policy they decided."""
        return self.sample.boundary == 0 or bool(self.sample.network and self.sample.policy)

    def payload(self, manifest: Manifest) -> Payload:
        """What the next tier is to be sent."""
        if self.arrays is None:
            return self.sample.payload
        return tensors_payload(self.arrays, manifest.network.boundaries[self.boundary])


def run_stage(
    runner: StageRunner,
    manifest: Manifest,
    stage: int,
    batch: Sequence[Work],
    *,
    slowdown: float = 1.0,
) -> list[Exception | None]:
    """Each work moved on by one stage, or what was wrong with its payload, in the order given.

    slowdown: how many times as long as it computes the batch is to take, decoding included.
    """
    stretch, boundary = Stretch(slowdown), manifest.network.boundaries[stage]
    errors = _computed(runner, stage, boundary, batch, stretch)
    for k, work in enumerate(batch):
        if work.boundary == stage and errors[k] is None:
            errors[k] = InvalidInput("payload", f"what stage {stage} makes of it is not finite")
    return errors


def _computed(
    runner: StageRunner, stage: int, boundary: Boundary, works: Sequence[Work], stretch: Stretch
) -> list[Exception | None]:
    """Moved on all together; where that fails, those whose payload is sound, and then each by itself."""
    # InvalidInput, or onnxruntime's, which have no common base. Whose it is nobody knows.
    with contextlib.suppress(Exception):
        _compute(runner, stage, boundary, works, stretch)
        return [None] * len(works)
    errors = [_decoded(work, boundary) for work in works]
    sound = [k for k, error in enumerate(errors) if error is None]
    if len(sound) == len(works):
        return [_computed_singly(runner, stage, boundary, work, stretch) for work in works]
    if sound:
        again = _computed(runner, stage, boundary, [works[k] for k in sound], stretch)
        for k, error in zip(sound, again, strict=True):
            errors[k] = error
    return errors


def _decoded(work: Work, boundary: Boundary) -> Exception | None:
    """What is wrong with its payload: InvalidInput; of anything else its conversation logs the traceback."""
    try:
        if work.arrays is None:
            work.arrays = payload_arrays(work.sample.payload, boundary)
    except InvalidInput as exc:
        return exc.with_traceback(None)  # which would hold all that holds the error: a circle
    except Exception as exc:
        return exc
    return None


def _compute(
    runner: StageRunner, stage: int, boundary: Boundary, works: Sequence[Work], stretch: Stretch
) -> None:
    outputs = runner.run(stage, _tensors(works, boundary))
    stretch.wait()
    _move_on(works, stage, outputs)


def _tensors(works: Sequence[Work], boundary: Boundary) -> Sequence[NDArray[Any]]:
    """(N, ...) each. Raises InvalidInput."""
    payloads = [work.sample.payload for work in works if work.arrays is None]
    if len(payloads) == len(works):
        joined = joined_arrays(payloads, boundary)
        if joined is not None:
            return joined
    for work in works:
        if work.arrays is None:
            work.arrays = payload_arrays(work.sample.payload, boundary)
    columns = zip(*(work.arrays or () for work in works), strict=True)
    return [_stacked(column) for column in columns]


def _stacked(column: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(N, ...); one alone is not copied."""
    return column[0][np.newaxis] if len(column) == 1 else np.stack(column)


def _computed_singly(
    runner: StageRunner, stage: int, boundary: Boundary, work: Work, stretch: Stretch
) -> Exception | None:
    """None where the work has been moved on, or the error of one that the stage cannot take."""
    try:
        _compute(runner, stage, boundary, [work], stretch)
    except Exception as exc:
        return _because(InvalidInput("payload", f"stage {stage} cannot compute on it"), exc)
    return None


def _because(error: InvalidInput, cause: Exception) -> InvalidInput:
    error.__cause__ = cause.with_traceback(None)  # for the reason above
    return error


def _move_on(sound: Sequence[Work], stage: int, outputs: StageOutputs) -> None:
    """Give each work its answer so far and its next boundary; those whose outputs are not finite stay."""
    finite = _finite(outputs)
    for policy in {work.policy.id: work.policy for work in sound}.values():
        rows = [k for k, work in enumerate(sound) if finite[k] and work.policy.id == policy.id]
        decision = _decision(policy, stage, outputs, rows, [sound[k] for k in rows])
        probabilities = decision.probabilities.astype(np.float32)
        labels, leaves = labels_of(probabilities).tolist(), decision.leaves.tolist()
        browns_out = _browning_out(sound[0], policy, stage, decision)
        for place, k in enumerate(rows):
            work = sound[k]
            work.best = ExitAnswer(
                stage, labels[place], probabilities[place], leaves[place], browns_out[place]
            )
            work.boundary = stage + 1
            work.arrays = tuple([tensor[k] for tensor in outputs.boundary])
            if decision.state is not None:
                work.exit_state = decision.state[place].tobytes()


def _browning_out(work: Work, policy: ExitPolicy, stage: int, decision: Decision) -> list[bool]:
    """(N,) who leaves by the thresholds of the tier's brown-out, and not by the policy's own."""
    threshold = work.held.brownout_threshold(policy.id, stage)
    if threshold is None:
        return [False] * len(decision.leaves)
    found: list[bool] = (~decision.leaves & (decision.confidence >= threshold)).tolist()
    return found


def _finite(outputs: StageOutputs) -> Sequence[bool]:
    """(N,): whose logits, gate and boundary are numbers; of the boundary, for the next tier would refuse them."""
    gates = () if outputs.gate is None else (outputs.gate,)
    found = [True] * len(outputs.logits)
    for tensor in (outputs.logits, *gates, *outputs.boundary):
        if tensor.dtype.kind == "f" and not is_finite(tensor):
            rows = np.isfinite(tensor).reshape(len(tensor), -1).all(axis=1).tolist()
            found = [before and now for before, now in zip(found, rows, strict=True)]
    return found


def _decision(
    policy: ExitPolicy,
    stage: int,
    outputs: StageOutputs,
    rows: Sequence[int],
    works: Sequence[Work],
) -> Decision:
    logits, gate = outputs.logits, outputs.gate
    if len(rows) < len(logits):
        logits, gate = logits[rows], None if gate is None else gate[rows]
    state = time_left_s = None
    if stage > 0 and policy.has_state:
        carried = b"".join([work.exit_state for work in works])
        state = np.frombuffer(carried, policy.state_type(logits.shape[1]))
    if policy.goes_by_time:
        now = time.monotonic()
        time_left_s = np.array([work.sample.deadline - now for work in works])
    return policy.decide(stage, logits, state=state, gate=gate, time_left_s=time_left_s)
