"""onnxruntime as every system here uses it: one thread, one operator after another, no spinning.

Imported in the peers' own environments too, so it needs onnxruntime alone.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort


def open_session(model: Path | str) -> ort.InferenceSession:
    """A session on one ONNX file, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
