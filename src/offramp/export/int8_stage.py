"""One stage in int8: onnxruntime's static quantisation of the nodes that are named.

    stage --batch norms folded, nodes named--> prepared --ranges of real inputs--> int8 stage (QDQ)

Activations are uint8 with a zero point, one scale a tensor, from the least to the greatest value
seen. Weights are int8, one scale a channel, and of 7 bits: a processor without VNNI adds pairs of
products in 16 bits, which 8 bits of weight can overflow, and the same bundle would answer otherwise
there than on one that has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from offramp.export.int8_nodes import Nodes, name_nodes

METHOD: Final = (
    "onnxruntime static quantisation, QDQ: uint8 activations by least and greatest value, "
    "int8 weights of 7 bits per channel"
)
_BATCH = 50


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Batches of a stage's inputs, as onnxruntime asks for them."""

    def __init__(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        self._batches = _batches(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch by the names of the inputs; None after the last."""
        return next(self._batches, None)


def _batches(inputs: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    count = len(next(iter(inputs.values())))
    for start in range(0, count, _BATCH):
        yield {name: array[start : start + _BATCH] for name, array in inputs.items()}


def prepared(content: bytes) -> onnx.ModelProto:
    """A stage with its batch norms in its layers and a name on every node, the same function."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "float32.onnx"), Path(folder, "prepared.onnx")
        source.write_bytes(content)  # for models in memory lose their weights on the way
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
        result = onnx.load(str(path))
    name_nodes(result.graph)
    return result


def int8_stage(
    stage: onnx.ModelProto, nodes: Nodes, inputs: Mapping[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A prepared stage with these nodes in int8.

    inputs: what the stage will be given, (N, ...) by name; the ranges of all values are those that
    it has on these.
    """
    kinds = {node.op_type for node in stage.graph.node if node.name in nodes}
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(stage, source)
        quantize_static(
            str(source),
            str(path),
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            calibrate_method=CalibrationMethod.MinMax,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=sorted(kinds),
            nodes_to_quantize=sorted(nodes),
        )
        result = onnx.load(str(path))
    result.producer_name, result.producer_version = "offramp", ""
    return result
