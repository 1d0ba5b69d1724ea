"""Bare compute: onnxruntime alone, in one process on the servers' core. What no server can be under.

`python -m benchmarks.serving.compute SECONDS BATCH MODEL...` prints, for each model in turn, CPU and wall
milliseconds an image, so that it shares nothing with the process that asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from benchmarks.serving.session import open_session

_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class Spent(NamedTuple):
    """Milliseconds an image: of CPU, and of the clock in the mean and as the median of all runs."""

    cpu_ms: float
    wall_ms: float
    median_ms: float


def _inputs(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Noise of the right form: codes from all that there are, or normal numbers."""
    chance = np.random.default_rng(batch)
    found = {}
    for takes in session.get_inputs():
        shape, dtype = (batch, *takes.shape[1:]), _TYPES[takes.type]
        noise = chance.normal(size=shape) if dtype is np.float32 else chance.integers(0, 256, shape)
        found[takes.name] = noise.astype(dtype)
    return found


def time_model(model: str, batch: int, seconds: float) -> Spent:
    """What one image costs in batches of that size, over so many seconds after a warm-up."""
    session = open_session(model)
    inputs = _inputs(session, batch)
    for _ in range(max(3, 50 // batch)):
        session.run(None, inputs)
    walls: list[float] = []
    until, cpu = time.perf_counter() + seconds, time.process_time()
    while (began := time.perf_counter()) < until:
        session.run(None, inputs)
        walls.append(time.perf_counter() - began)
    spent_s = time.process_time() - cpu
    per_image = 1e3 / (batch * len(walls))
    return Spent(spent_s * per_image, sum(walls) * per_image, float(np.median(walls)) * 1e3 / batch)


def bare(models: Sequence[Path], batch: int, seconds: float, core: int) -> list[Spent]:
    """Of each model, measured in a process of its own on that core."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.serving.compute"]
    command += [str(seconds), str(batch), *map(str, models)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, check=True
    )
    return [Spent(*row) for row in json.loads(done.stdout)]


if __name__ == "__main__":
    print(json.dumps([time_model(m, int(sys.argv[2]), float(sys.argv[1])) for m in sys.argv[3:]]))
