"""How long each stage computes: one sample at a time, one thread, on this machine.

Nothing but the stages' own passes is in it: no link, no queue, no decoding, no other tier beside it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.serving.runner import StageRunner

_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Milliseconds of one stage at batch 1: the median, and the 5th and 95th percentile."""

    p50_ms: float
    p5_ms: float
    p95_ms: float


def stage_times(bundle: Bundle, inputs: NDArray[Any]) -> tuple[StageTime, ...]:
    """Each stage's time over inputs (N, ...), after a warm-up. Raises InvalidBundle where one is not held."""
    stages = range(len(bundle.manifest.network.stages))
    runner = StageRunner(bundle, stages)
    rounds = [*inputs[:_WARM_UP], *inputs]
    took = np.zeros((len(rounds), len(stages)))
    for k, sample in enumerate(rounds):
        tensors: tuple[NDArray[Any], ...] = (sample[None],)
        for stage in stages:
            began = time.perf_counter()
            outputs = runner.run(stage, tensors)
            took[k, stage] = (time.perf_counter() - began) * 1e3
            tensors = outputs.boundary
    p50, p5, p95 = np.percentile(took[min(_WARM_UP, len(inputs)) :], (50, 5, 95), axis=0)
    return tuple(
        StageTime(p50_ms=float(a), p5_ms=float(b), p95_ms=float(c))
        for a, b, c in zip(p50, p5, p95, strict=True)
    )
