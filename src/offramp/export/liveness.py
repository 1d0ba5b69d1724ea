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

from onnx import AttributeProto, GraphProto, NodeProto

from offramp.export.batch_size import BATCH_SIZE


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
        self._produced = [tuple(filter(None, node.output)) for node in graph.node]
        self._producer = {name: i for i, names in enumerate(self._produced) for name in names}
        self._order = {name: k for k, name in enumerate(self._producer)}
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
        """What is there once the targets are: all that the nodes up to them yield, and the inputs.

        A node that has run has all of its outputs: an LSTM yields its states with its sequence.
        """
        found, stack = set(self.inputs), list(targets)
        while stack:
            name = stack.pop()
            if name in found:
                continue
            found.add(name)
            if name in self._producer:
                node = self._producer[name]
                found.update(self._produced[node])
                stack.extend(self.reads[node])
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
                stack.extend(self.reads[self._producer[name]])
        return tuple(sorted(found, key=lambda name: self._order.get(name, -1)))
