"""One stage of three behind a peer: run a batch, and say who leaves here.

    MODEL  the stage's ONNX file       EXIT       its number
    NEXT   HOST:PORT of the next tier  THRESHOLD  of its exit; none for the last

The rule is the one of the bundle: the largest probability, and at the threshold or over it a sample leaves.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from benchmarks.serving.session import open_session

GOES_ON = 255  # in place of the exit's number, before the codes


class Outcome(NamedTuple):
    """Of one sample: the exit that answers it with these logits, or GOES_ON with these codes."""

    exit: int
    tensor: np.ndarray

    def to_bytes(self) -> bytes:
        """One byte, and the tensor."""
        return bytes([self.exit]) + self.tensor.tobytes()


class Stage:
    """The stage that the environment names."""

    def __init__(self) -> None:
        self._session = open_session(os.environ["MODEL"])
        takes = self._session.get_inputs()[0]
        self._takes, self.shape = takes.name, tuple(takes.shape[1:])
        self.dtype = np.dtype(np.float32 if takes.type == "tensor(float)" else np.uint8)
        self._exit = int(os.environ["EXIT"])
        threshold = os.environ.get("THRESHOLD", "")
        self._threshold = float(threshold) if threshold else None

    def tensor_of(self, data: bytes) -> np.ndarray:
        """One sample's input."""
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def run(self, batch: np.ndarray) -> list[Outcome]:
        """Of each sample of a batch, in order."""
        outputs = self._session.run(None, {self._takes: batch})
        logits = outputs[0]
        if self._threshold is None:
            return [Outcome(self._exit, row) for row in logits]
        chances = np.exp(logits - logits.max(1, keepdims=True))
        sure = 1.0 / chances.sum(1) >= self._threshold  # the largest of exp(l - max) is 1
        return [
            Outcome(self._exit, row) if leaves else Outcome(GOES_ON, codes)
            for leaves, row, codes in zip(sure, logits, outputs[1], strict=True)
        ]
