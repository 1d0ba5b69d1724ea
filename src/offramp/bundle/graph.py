"""What is in a stage's file, seen by its protobuf before onnxruntime is given the bytes.

onnxruntime is a large C++ program that was not written for files of strangers. So a stage is read here first, by a
schema of the few fields that hold operators, graphs and tensors (`protos/offramp/bundle/v1/stage.proto`), and refused
where it holds anything else than a graph of ONNX's own operators with all of its numbers inside:

    operators of other domains   they would be code of somebody else, or files that are opened by name
    functions, training          graphs that no export here writes
    data in other files          bytes that nobody hashed
    sparse tensors               few bytes that become many
    tensors of another size      than their shape says

What passes may still ask for more time or memory than there is; that is what `offramp.serving.trial` is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from offramp.bundle.v1 import stage_pb2 as pb
from offramp.errors import InvalidBundle

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MOST_NODES: Final = (
    100_000  # of a stage, its subgraphs included; those of the zoo have up to a few thousand
)
MOST_DEPTH: Final = 8  # of graphs in attributes of nodes: the bodies of If, Loop and Scan
_MOST_SIZE = 2**31  # of a dimension: no tensor of a file of protobuf is larger
_MOST_DIMENSIONS = 32
_MOST_SHOWN = 64  # characters of a name


class _Form(NamedTuple):
    """How the values of a data type are kept: bits of one, and the field that holds those that are not raw."""

    bits: int
    field: str
    bits_an_entry: int = 0  # of that field, where an entry is not one value

    def entries(self, count: int) -> int:
        """How many entries of the field so many values take."""
        return -(-count * self.bits // self.bits_an_entry) if self.bits_an_entry else count


# onnx/onnx.proto, TensorProto.DataType and the comments at its fields.
_FORMS: Final = {
    1: _Form(32, "float_data"),
    **dict.fromkeys((2, 3, 9), _Form(8, "int32_data")),  # uint8, int8, bool
    **dict.fromkeys((4, 5, 10, 16), _Form(16, "int32_data")),  # (u)int16, float16, bfloat16
    6: _Form(32, "int32_data"),
    7: _Form(64, "int64_data"),
    11: _Form(64, "double_data"),
    12: _Form(32, "uint64_data"),
    13: _Form(64, "uint64_data"),
    **dict.fromkeys((17, 18, 19, 20, 24), _Form(8, "int32_data")),  # the floats of 8 bits
    **dict.fromkeys((21, 22, 23), _Form(4, "int32_data", 8)),  # two to an entry
}
_TYPED: Final = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)


def check_graph(content: bytes, file: str) -> None:
    """Return where a stage's bytes are a graph of ONNX's operators, whole in itself.

    file: what errors call it. Raises InvalidBundle naming the file and the field.
    """
    try:
        model = pb.Model.FromString(content)
    except DecodeError:
        raise InvalidBundle(file, "is no ONNX model, or nests too deeply") from None
    if not model.HasField("graph"):
        raise InvalidBundle(file, "is no ONNX model: it has no graph")
    for field in ("functions", "training_info"):
        if getattr(model, field):
            raise InvalidBundle(f"{file}: {field}", "no stage may have any")
    _Walk(file).graph(model.graph, "graph", 0)


class _Walk:
    """One pass over a model, graphs in attributes included."""

    def __init__(self, file: str) -> None:
        self._file, self._nodes = file, 0

    def graph(self, graph: Any, path: str, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise self._refused(path, f"graphs in graphs more than {MOST_DEPTH} deep")
        self._nodes += len(graph.node)
        if self._nodes > MOST_NODES:
            raise self._refused(path, f"more than {MOST_NODES:,} nodes")
        if graph.sparse_initializer:
            raise self._refused(f"{path}.sparse_initializer", "sparse tensors are not taken")
        for k, tensor in enumerate(graph.initializer):
            self._tensor(tensor, f"{path}.initializer[{k}]")
        for k, node in enumerate(graph.node):
            if node.domain not in DOMAINS:
                kind, domain = node.op_type[:_MOST_SHOWN], node.domain[:_MOST_SHOWN]
                text = f"{kind!r} is of {domain!r}, not one of ONNX's own operators"
                raise self._refused(f"{path}.node[{k}].domain", text)
            for attribute in node.attribute:
                name = attribute.name[:_MOST_SHOWN]
                self._attribute(attribute, f"{path}.node[{k}].{name}", depth)

    def _attribute(self, attribute: Any, path: str, depth: int) -> None:
        if attribute.sparse_tensor or attribute.sparse_tensors:
            raise self._refused(path, "sparse tensors are not taken")
        for tensor in _all_of(attribute, "t", attribute.tensors):
            self._tensor(tensor, path)
        for graph in _all_of(attribute, "g", attribute.graphs):
            self.graph(graph, path, depth + 1)

    def _tensor(self, tensor: Any, path: str) -> None:
        if tensor.data_location or tensor.external_data or tensor.segment:
            name = tensor.name[:_MOST_SHOWN]
            raise self._refused(path, f"tensor {name!r} has its data somewhere else")
        if len(tensor.dims) > _MOST_DIMENSIONS:
            raise self._refused(f"{path}.dims", f"more than {_MOST_DIMENSIONS} dimensions")
        if any(not 0 <= size < _MOST_SIZE for size in tensor.dims):
            raise self._refused(f"{path}.dims", f"{list(tensor.dims)} is no shape")
        form = _FORMS.get(tensor.data_type)
        if form is None:
            raise self._refused(f"{path}.data_type", f"{tensor.data_type} is not taken")
        count = math.prod(tensor.dims)
        held = {field: entries for field in _TYPED if (entries := len(getattr(tensor, field)))}
        if not held:
            wanted, found = -(-count * form.bits // 8), len(tensor.raw_data)
        elif tensor.raw_data or held.keys() != {form.field}:
            raise self._refused(path, f"its values are in the fields {sorted(held)}")
        else:
            wanted, found = form.entries(count), held[form.field]
        if found != wanted:
            text = f"{found} bytes or entries, not the {wanted} of its shape"
            raise self._refused(path, text)

    def _refused(self, field: str, text: str) -> InvalidBundle:
        return InvalidBundle(f"{self._file}: {field}", text)


def _all_of(message: Any, one: str, more: Iterable[Any]) -> Iterator[Any]:
    if message.HasField(one):
        yield getattr(message, one)
    yield from more
