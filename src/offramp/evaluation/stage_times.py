"""How long each stage computes: one thread, on this machine, one bundle or several in turn.

Nothing but the stages' own passes is in it: no link, no queue, no decoding, no other tier beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.serving.runner import StageRunner

_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Milliseconds of one stage on one batch: the median, and the 5th and 95th percentile."""

    p50_ms: float
    p5_ms: float
    p95_ms: float


def stage_times(bundle: Bundle, inputs: NDArray[Any]) -> tuple[StageTime, ...]:
    """Each stage's time at batch 1, over inputs (N, ...). Raises InvalidBundle where one is not held."""
    return times_in_turn([bundle], inputs)[0]


def times_in_turn(
    bundles: Sequence[Bundle], inputs: NDArray[Any], *, batch: int = 1
) -> list[tuple[StageTime, ...]]:
    """Each stage's time in each of several bundles that take the same inputs (N, ...), after a warm-up.

    They take turns batch by batch, so that whatever else slows the machine slows them alike. Raises
    InvalidBundle where a stage is not held.
    """
    runners = [StageRunner(b, range(len(b.manifest.network.stages))) for b in bundles]
    batches = [inputs[k : k + batch] for k in range(0, len(inputs) - batch + 1, batch)]
    warm_up = min(_WARM_UP, len(batches))
    took = [
        [_pass(runner, one) for runner in runners] for one in (*batches[:warm_up], *batches)
    ]  # (batches, bundles, stages)
    return [_times([of[k] for of in took[warm_up:]]) for k in range(len(runners))]


def _pass(runner: StageRunner, inputs: NDArray[Any]) -> list[float]:
    """Milliseconds of each stage."""
    tensors: tuple[NDArray[Any], ...] = (inputs,)
    took = []
    for stage in runner.stages:
        began = time.perf_counter()
        outputs = runner.run(stage, tensors)
        took.append((time.perf_counter() - began) * 1e3)
        tensors = outputs.boundary
    return took


def _times(took: Sequence[Sequence[float]]) -> tuple[StageTime, ...]:
    p50, p5, p95 = np.percentile(took, (50, 5, 95), axis=0)
    return tuple(
        StageTime(p50_ms=float(a), p5_ms=float(b), p95_ms=float(c))
        for a, b, c in zip(p50, p5, p95, strict=True)
    )
