"""How onnxruntime computes: what the settings `inference.*` become, and what is chosen for everybody.

Measured on stage 0 of the Fashion-MNIST bundle, 2 cores of an AMD EPYC with AVX-512, onnxruntime
1.32, medians of interleaved calls:

| choice | at batch 1 | why |
|---|---|---|
| all optimisations (default) | 182 us; extended 289, basic 292, none 324 | layouts for the processor's vectors |
| graphs kept (`cache`) | opened in 1.4 ms instead of 9.2 | and equal to the bit |
| 1 thread (default) | 153 us; with 2 threads 166 | even at batch 32 the second brings 5 % |
| no spinning (default) | | a batch of 32 on 2 threads took 3.9 ms, spinning 7.8 where others compute too |
| sequential, fixed | 153 us; parallel 153 | these networks have few branches |
| no memory plans, fixed | 1,497 us (network of W1); with them 1,507 | one is kept for each batch size: 4 to 6 MB |
| outputs allocated by each call, fixed | 119 us; bound to new arrays 128 | bound once for all calls 116 |

Outputs bound once are not to be had: what a call gave waits to be sent while the next one computes.
"""

from __future__ import annotations

from os import devnull
from typing import Any

import onnxruntime as ort

from offramp.errors import InvalidSettings
from offramp.serving.settings import Inference, Provider

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# Nodes that the one named first cannot run go to the next. Where a provider may trade precision for
# speed by itself, it is told not to: thresholds and certificates are of float32.
_PROVIDERS: dict[Provider, list[tuple[str, dict[str, str]]]] = {
    "cpu": [("CPUExecutionProvider", {})],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})],
    "tensorrt": [
        ("TensorrtExecutionProvider", {}),
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ],
    "openvino": [("OpenVINOExecutionProvider", {}), ("CPUExecutionProvider", {})],
}


def providers(inference: Inference) -> list[tuple[str, dict[str, str]]]:
    """What onnxruntime is asked for: names and options, the one that the setting names first.

    Raises InvalidSettings where this onnxruntime lacks it, naming those that it has.
    """
    wanted, there = _PROVIDERS[inference.provider], ort.get_available_providers()
    if wanted[0][0] not in there:
        had = ", ".join(name for name, chain in _PROVIDERS.items() if chain[0][0] in there)
        text = f"{inference.provider!r} is not in this onnxruntime, which has {had}"
        raise InvalidSettings("inference.provider", text)
    return [(name, options) for name, options in wanted if name in there]


def check_arithmetic(inference: Inference, arithmetic: str) -> None:
    """Pass where the provider computes a stage of this arithmetic as it was calibrated and certified.

    float32 is the same for all within rounding errors (OpenVINO 1.24: 1e-6 of the logits, no code
    another). int8 is not: there 4 to 9 % of the codes were others. Raises InvalidSettings.
    """
    if arithmetic == "int8" and inference.provider != "cpu":
        text = (
            f"{inference.provider!r} rounds int8 stages otherwise than 'cpu', which certifies them"
        )
        raise InvalidSettings("inference.provider", text)


def check_provider(inference: Inference, session: Any) -> None:
    """Pass where a session runs on the provider asked for: onnxruntime itself only warns where it does not.

    Raises InvalidSettings.
    """
    if session.get_providers()[0] != _PROVIDERS[inference.provider][0][0]:
        text = (
            f"{inference.provider!r} is in this onnxruntime, but cannot be started on this machine"
        )
        raise InvalidSettings("inference.provider", text)


def session_options(inference: Inference) -> ort.SessionOptions:
    """The options of a session on one stage."""
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = inference.threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # for batches are of all sizes
    options.graph_optimization_level = _LEVELS[inference.optimisation]
    spinning = "1" if inference.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    # Weights in a file beside the model would be bytes that nobody hashed; in this folder there is no file.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", devnull
    )
    # Else bytes that look like onnxruntime's own format would be read as that, and what was checked is another graph.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options
