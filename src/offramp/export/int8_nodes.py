"""Which nodes of a stage's graph int8 may compute, and which stay as they are.

    image -> [prepare] -> layer -> layers, sums ... -> layer -> [codec's levels] -> codes
    codes -> [widen]   -> layer -> ...                 layer -> logits, gate

In brackets, and the layers before codes, logits and gate: always float32. A code is a rounded value
and a decision compares with a threshold; eight bits there would take the place of both. They are few
of a stage's multiplications. The first layers are int8 or not as an arrangement says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from onnx import GraphProto

LAYERS: Final = frozenset({"Conv", "Gemm", "MatMul"})
# Kept in int8 between layers, so that no value need be widened on the way.
_BETWEEN: Final = frozenset({"Relu", "Clip", "MaxPool"})
_SUMS: Final = frozenset({"Add", "Concat", "AveragePool"})
_ENDS = LAYERS | {"ConvTranspose", "LSTM", "GRU", "RNN"}  # where a walk along the graph stops

Nodes = frozenset[str]


def _behind(graph: GraphProto, values: Iterable[str]) -> Nodes:
    """The nodes that work on these values and on nothing that a layer made, the first layers included."""
    known, layered, found = set(values), set[str](), set[str]()
    for node in graph.node:
        if not layered.isdisjoint(node.input):
            layered.update(node.output)  # such as the sum behind a shortcut
        # What is computed from the batch size alone, a Shape of it, is of no value.
        elif node.op_type != "Shape" and not known.isdisjoint(node.input):
            found.add(node.name)
            (layered if node.op_type in _ENDS else known).update(node.output)
    return frozenset(found)


def _before(graph: GraphProto, values: Iterable[str]) -> Nodes:
    """The nodes that make these values, back to the last layers on every way."""
    known, found = set(values), set()
    for node in reversed(graph.node):
        if not known.isdisjoint(node.output):
            found.add(node.name)
            if node.op_type not in _ENDS:
                known.update(node.input)
    return frozenset(found)


def name_nodes(graph: GraphProto) -> None:
    """Give every node a name of its own, for it is named when it is chosen."""
    taken: set[str] = set()
    for k, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{k}"
        taken.add(node.name)


def arrangements(
    graph: GraphProto, taken: Iterable[str], exact: Iterable[str], *, is_narrow: bool
) -> Iterator[tuple[str, Nodes]]:
    """Ways to compute a stage in int8, the fastest first: what each is called, and its int8 nodes.

    taken: the stage's inputs; exact: those of its outputs that must not be of eight bits; is_narrow:
    whether the inputs have few channels, as images and codes do. Few channels leave most of a
    processor's int8 products unused: on the first convolution of Fashion-MNIST, of 1 channel, stage 0
    takes 166 us with it in int8 and 151 us without. The nodes are in topological order and have
    names. A way that has no layer, or is an earlier one, is left out.
    """
    behind, before = _behind(graph, taken), _before(graph, exact)
    layers = {node.name for node in graph.node if node.op_type in LAYERS}
    always_float = before | (behind - layers)
    without_first: tuple[Nodes, str] = (behind, " behind the first")
    with_first: tuple[Nodes, str] = (frozenset(), "")
    order = (without_first, with_first) if is_narrow else (with_first, without_first)
    ways: dict[Nodes, str] = {}
    for spared, where in order:
        for what, kinds in (
            ("layers and sums", LAYERS | _BETWEEN | _SUMS),
            ("layers", LAYERS | _BETWEEN),
        ):
            able = {node.name for node in graph.node if node.op_type in kinds}
            ways.setdefault(frozenset(able - always_float - spared), what + where)
    return ((what, nodes) for nodes, what in ways.items() if nodes & layers)
