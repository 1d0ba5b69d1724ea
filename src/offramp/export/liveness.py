"""Which values of an ONNX graph are alive at a boundary, and which depend on the batch size only.

Every value is of one kind:

    constant   initialisers and what is computed from them; copied into each stage that needs it
    batch      computed from the batch size (a Shape of anything) and constants; rebuilt
    data       everything else; alive at a boundary if computed before it and needed behind it

A boundary without a codec is the data alive there, so that nothing else need travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

BATCH_SIZE = (
    "batch_size"  # the one node that `anchor_batch` leaves to look at a tensor for its batch
)


class Kind(Enum):
    """What a value of the graph depends on."""

    CONSTANT = 0
    BATCH = 1
    DATA = 2


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node (the branches of If, the bodies of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _read_by(node: NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its subgraphs read included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        inside |= {name for inner in graph.node for name in inner.output}
        yield from (n for inner in graph.node for n in _read_by(inner) if n not in inside)


class Dataflow:
    """Who computes and who reads each value of a graph whose nodes are in topological order."""

    def __init__(self, graph: GraphProto) -> None:
        self.inputs = {value.name for value in graph.input}
        self.producer = {
            name: i for i, node in enumerate(graph.node) for name in node.output if name
        }
        self.reads = [tuple(_read_by(node)) for node in graph.node]
        self._kinds = {value.name: Kind.CONSTANT for value in graph.initializer}
        self._kinds |= dict.fromkeys(self.inputs, Kind.DATA)
        for node, reads in zip(graph.node, self.reads, strict=True):
            kinds = [self._kinds[name].value for name in reads]
            kind = Kind(max(kinds, default=0)) if node.name != BATCH_SIZE else Kind.BATCH
            self._kinds |= dict.fromkeys(node.output, kind)

    def is_data(self, name: str) -> bool:
        """Whether a value depends on more than constants and the batch size."""
        return self._kinds[name] is Kind.DATA

    def before(self, targets: Iterable[str]) -> set[str]:
        """The targets, everything that they are computed from, and the graph's inputs."""
        found, stack = set(self.inputs), list(targets)
        while stack:
            name = stack.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.producer:
                stack.extend(self.reads[self.producer[name]])
        return found

    def alive(self, before: set[str], targets: Iterable[str]) -> tuple[str, ...]:
        """The data in `before` that suffice to compute the targets behind, in graph order."""
        seen: set[str] = set()
        found: set[str] = set()
        stack = list(targets)
        while stack:
            name = stack.pop()
            if name in seen or not self.is_data(name):
                continue
            seen.add(name)
            if name in before:
                found.add(name)
            else:
                stack.extend(self.reads[self.producer[name]])
        return tuple(sorted(found, key=lambda name: self.producer.get(name, -1)))


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


def anchor_batch(model: onnx.ModelProto, image: str, batch: str) -> onnx.ModelProto:
    """The same graph, with the batch size read off one tensor by one node, called BATCH_SIZE.

    Every `Shape` of a tensor of sizes (batch, constants...) is rebuilt from that node and
    constants. A Shape of anything else stays as it is, and counts as data.
    """
    anchored = onnx.ModelProto()
    anchored.CopyFrom(model)
    graph = anchored.graph
    dimensions = _dimensions(graph)
    helper = onnx.helper
    size = helper.make_node("Shape", [image], [BATCH_SIZE], BATCH_SIZE, start=0, end=1)
    nodes = [size]
    for node in graph.node:
        sizes = dimensions.get(node.input[0], []) if node.op_type == "Shape" else []
        if not sizes or sizes[0] != batch or any(isinstance(other, str) for other in sizes[1:]):
            nodes.append(node)
            continue
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        wanted = sizes[slice(bounds.get("start", 0), bounds.get("end"))]
        parts = [BATCH_SIZE] * (wanted[:1] == [batch])
        rest = [part for part in wanted if isinstance(part, int)]
        if rest:
            parts.append(f"{node.output[0]}.sizes")
            graph.initializer.append(
                helper.make_tensor(parts[-1], onnx.TensorProto.INT64, [len(rest)], rest)
            )
        output = list(node.output)
        nodes.append(
            helper.make_node("Concat", parts, output, node.name, axis=0)
            if len(parts) > 1
            else helper.make_node("Identity", parts, output, node.name)
        )
    del graph.node[:]
    graph.node.extend(nodes)
    return anchored
