"""The batch size of an ONNX graph, read off one tensor by one node.

    Shape of anything -> batch size x multiples + constants

The exporter asks many tensors for their shapes; a stage has few of them. With one node that asks, a
stage needs no more than one tensor of its boundary to rebuild what depends on the batch size alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import GraphProto, NodeProto, TensorProto

BATCH_SIZE = "batch_size"  # the node that asks, and what it yields: (1,) int64


def _dimensions(graph: GraphProto) -> dict[str, list[int | str]]:
    """The sizes of every value whose shape is known; a dynamic one is its name."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _multiple(size: int | str, batch: str) -> tuple[int, int] | None:
    """A size as a multiple of the batch size and a constant; None where it is neither.

    >>> _multiple(7, "batch"), _multiple("batch", "batch"), _multiple("4*batch", "batch")
    ((0, 7), (1, 0), (4, 0))
    """
    if isinstance(size, int):
        return 0, size
    factors = [factor.strip("() ") for factor in size.split("*")]
    if factors.count(batch) != 1:
        return None
    factors.remove(batch)
    if not all(factor.isdecimal() for factor in factors):
        return None
    return math.prod(int(factor) for factor in factors), 0


def _rebuilt(
    node: NodeProto, sizes: Sequence[int | str], batch: str
) -> tuple[list[NodeProto], list[TensorProto]] | None:
    """A Shape node as BATCH_SIZE * multiples + constants, with these; None where it is more."""
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    wanted = sizes[slice(bounds.get("start", 0), bounds.get("end"))]
    parts = [_multiple(size, batch) for size in wanted]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    multiples, constants = zip(*known, strict=True)
    output, helper = node.output[0], onnx.helper
    names = [f"{output}.multiples", f"{output}.constants"]
    tensors = [
        helper.make_tensor(name, TensorProto.INT64, [len(known)], values)
        for name, values in zip(names, (multiples, constants), strict=True)
    ]
    if not any(multiples):
        return [helper.make_node("Identity", names[1:], [output], node.name)], tensors[1:]
    scaled = f"{output}.scaled"
    return [
        helper.make_node("Mul", [BATCH_SIZE, names[0]], [scaled]),
        helper.make_node("Add", [scaled, names[1]], [output], node.name),
    ], tensors


def anchor_batch(model: onnx.ModelProto, source: str, batch: str) -> onnx.ModelProto:
    """The same graph, with the batch size read off `source` by one node, called BATCH_SIZE.

    batch: the name of the dynamic size. Every `Shape` of sizes that are constants or multiples of
    the batch size, in any order, is rebuilt from that node and constants. A Shape of anything else
    stays as it is, and counts as data.
    """
    anchored = onnx.ModelProto()
    anchored.CopyFrom(model)
    graph = anchored.graph
    dimensions = _dimensions(graph)
    nodes = [onnx.helper.make_node("Shape", [source], [BATCH_SIZE], BATCH_SIZE, start=0, end=1)]
    for node in graph.node:
        sizes = dimensions.get(node.input[0]) if node.op_type == "Shape" else None
        found = _rebuilt(node, sizes, batch) if sizes else None
        if found is None:
            nodes.append(node)
        else:
            nodes += found[0]
            graph.initializer.extend(found[1])
    del graph.node[:]
    graph.node.extend(nodes)
    return anchored
