"""A stage's file is read by its protobuf before onnxruntime sees it: what is taken, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from offramp.bundle.graph import MOST_DEPTH, MOST_NODES, check_graph
from offramp.bundle.v1 import stage_pb2 as pb
from offramp.errors import InvalidBundle

EXAMPLE = Path(__file__).parent.parent / "examples/fashion_mnist/bundle"
FLOAT, UINT8, BOOL, FLOAT16, INT4, STRING, COMPLEX64 = 1, 2, 9, 10, 22, 8, 14


def model(*nodes: pb.Node, **graph: object) -> pb.Model:
    return pb.Model(ir_version=10, graph=pb.Graph(node=nodes, **graph))


def holding(**tensor: object) -> pb.Model:
    """A model with one initializer."""
    return model(initializer=[pb.Tensor(name="w", **tensor)])


def constant(**tensor: object) -> pb.Model:
    """A model with the same tensor in an attribute."""
    value = pb.Attribute(name="value", t=pb.Tensor(name="w", **tensor))
    return model(pb.Node(op_type="Constant", attribute=[value]))


def nested(inner: pb.Graph, depth: int) -> pb.Model:
    """A model whose graph has others in it, the innermost that deep."""
    for _ in range(depth):
        body = pb.Attribute(name="body", g=inner)
        inner = pb.Graph(node=[pb.Node(op_type="Loop", attribute=[body])])
    return pb.Model(ir_version=10, graph=inner)


def refused(content: pb.Model | bytes) -> InvalidBundle:
    data = content if isinstance(content, bytes) else content.SerializeToString()
    with pytest.raises(InvalidBundle) as caught:
        check_graph(data, "stage0.onnx")
    assert caught.value.field.startswith("stage0.onnx")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_stages_of_the_example_pass(stage: int) -> None:
    path = EXAMPLE / f"stage{stage}.onnx"
    check_graph(path.read_bytes(), str(path))


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 9, b"\x08\x0a"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    assert refused(content).message.startswith("is no ONNX model")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.contrib", "x" * 10_000])
def test_operators_that_are_not_onnx_own_are_refused(domain: str) -> None:
    custom = pb.Node(op_type="PyOp", domain=domain)
    error = refused(model(pb.Node(op_type="Relu"), custom))
    assert error.field == "stage0.onnx: graph.node[1].domain"
    assert len(str(error)) < 200
    inside = refused(nested(pb.Graph(node=[custom]), 2))
    assert inside.field == "stage0.onnx: graph.node[0].body.node[0].body.node[0].domain"


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml"])
def test_onnx_own_operators_pass(domain: str) -> None:
    check_graph(model(pb.Node(op_type="Relu", domain=domain)).SerializeToString(), "s")


@pytest.mark.parametrize("field", ["functions", "training_info"])
def test_functions_and_training_are_refused(field: str) -> None:
    one = model()
    getattr(one, field).append(b"")
    assert refused(one).field == f"stage0.onnx: {field}"


@pytest.mark.parametrize("made", [holding, constant])
@pytest.mark.parametrize(
    "elsewhere", [{"data_location": 1}, {"data_location": 7}, {"external_data": [b"\x0a\x01k"]}]
)
def test_data_in_another_file_is_refused(
    made: Callable[..., pb.Model], elsewhere: dict[str, object]
) -> None:
    error = refused(made(dims=[1], data_type=UINT8, raw_data=b"1", **elsewhere))
    assert "'w' has its data somewhere else" in error.message
    deep = nested(made(dims=[1], data_type=UINT8, raw_data=b"1", **elsewhere).graph, 3)
    assert ".body." in refused(deep).field


def test_sparse_tensors_are_refused() -> None:
    assert "sparse" in refused(model(sparse_initializer=[b""])).message
    for field in ({"sparse_tensor": b"\x18\x01"}, {"sparse_tensors": [b""]}):
        value = pb.Attribute(name="sparse_value", **field)
        assert "sparse" in refused(model(pb.Node(op_type="Constant", attribute=[value]))).message


@pytest.mark.parametrize("made", [holding, constant])
@pytest.mark.parametrize(
    "tensor",
    [
        {"dims": [2, 3], "data_type": FLOAT, "raw_data": bytes(24)},
        {"dims": [], "data_type": FLOAT, "float_data": [1.0]},
        {"dims": [0, 2**30], "data_type": UINT8},
        {"dims": [3], "data_type": BOOL, "int32_data": [1, 0, 1]},
        {"dims": [3], "data_type": FLOAT16, "raw_data": bytes(6)},
        {"dims": [3], "data_type": INT4, "raw_data": bytes(2)},
        {"dims": [3], "data_type": INT4, "int32_data": [1, 2]},
    ],
)
def test_tensors_of_the_size_that_they_say_pass(
    made: Callable[..., pb.Model], tensor: dict[str, object]
) -> None:
    check_graph(made(**tensor).SerializeToString(), "s")


@pytest.mark.parametrize("made", [holding, constant])
@pytest.mark.parametrize(
    "tensor",
    [
        {"dims": [2, 3], "data_type": FLOAT, "raw_data": bytes(23)},
        {"dims": [2, 3], "data_type": FLOAT},
        {"dims": [2, 3], "data_type": FLOAT, "float_data": [1.0]},
        {"dims": [1], "data_type": FLOAT, "int32_data": [1]},
        {"dims": [1], "data_type": FLOAT, "float_data": [1.0], "raw_data": bytes(4)},
        {"dims": [-1, -1], "data_type": UINT8, "raw_data": b"1"},
        {"dims": [2**40, 0], "data_type": UINT8},
        {"dims": [2**30] * 4, "data_type": UINT8, "raw_data": b"1"},
        {"dims": [1] * 100_000, "data_type": UINT8, "raw_data": b"1"},
        {"dims": [1], "data_type": 0, "raw_data": b"1"},
        {"dims": [1], "data_type": STRING, "string_data": [b"x"]},
        {"dims": [1], "data_type": COMPLEX64, "raw_data": bytes(8)},
        {"dims": [1], "data_type": 99, "raw_data": b"1"},
    ],
)
def test_tensors_of_another_size_or_kind_are_refused(
    made: Callable[..., pb.Model], tensor: dict[str, object]
) -> None:
    refused(made(**tensor))


def test_there_is_an_end_to_nodes_and_to_graphs_in_graphs() -> None:
    half = pb.Graph(node=[pb.Node()] * (MOST_NODES // 2))
    attributes = [pb.Attribute(name="then", g=half), pb.Attribute(name="else", g=half)]
    assert "nodes" in refused(model(pb.Node(op_type="If", attribute=attributes))).message
    check_graph(nested(pb.Graph(), MOST_DEPTH).SerializeToString(), "s")
    assert "deep" in refused(nested(pb.Graph(), MOST_DEPTH + 1)).message


def test_no_depth_ends_more_than_the_check() -> None:
    """Made by hand, for a message this deep cannot be written either."""
    data = b""
    for _ in range(5000):
        for tag in (
            b"\x32",
            b"\x2a",
            b"\x0a",
        ):  # g of an attribute, attribute of a node, node of a graph
            data = tag + _varint(len(data)) + data
    assert "nests too deeply" in refused(b"\x3a" + _varint(len(data)) + data).message


def _varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(group | 0x80 for group, _ in pairwise(groups)), groups[-1]])


def test_the_fields_are_those_of_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        theirs = getattr(onnx, f"{message.name}Proto").DESCRIPTOR.fields_by_name
        assert {f.name: f.number for f in message.fields} == {
            name: theirs[name].number for name in (f.name for f in message.fields)
        }
