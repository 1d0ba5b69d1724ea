"""The bytes of a stage's file, as they are checked in front of onnxruntime: taken, or InvalidBundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from offramp.bundle.graph import check_graph
from offramp.bundle.v1 import stage_pb2 as pb
from offramp.errors import InvalidBundle

MESSAGE, BETWEEN, MOST_BYTES = pb.Model, b"", 4096
DICTIONARY = ("ai.onnx.ml", "com.microsoft", "location")


def _tensor(**more: object) -> pb.Tensor:
    return pb.Tensor(name="w", dims=[2, 3], data_type=1, raw_data=bytes(24), **more)


def seeds() -> list[bytes]:
    """A graph with tensors of every kind, and one with others in it."""
    typed = [
        pb.Tensor(dims=[2], data_type=1, float_data=[1, 2]),
        pb.Tensor(dims=[2], data_type=22, int32_data=[7]),
        pb.Tensor(dims=[2], data_type=7, int64_data=[1, 2]),
        pb.Tensor(dims=[2], data_type=11, double_data=[1, 2]),
        pb.Tensor(dims=[2], data_type=13, uint64_data=[1, 2]),
        pb.Tensor(dims=[1], data_type=8, string_data=[b"x"]),
    ]
    constant = pb.Node(op_type="Constant", attribute=[pb.Attribute(name="value", t=_tensor())])
    inner = pb.Graph(node=[constant, pb.Node(op_type="Relu", domain="ai.onnx")])
    branches = pb.Attribute(name="branches", graphs=[inner], tensors=[_tensor()])
    branch = pb.Attribute(name="then_branch", g=pb.Graph(node=[constant], initializer=typed[:5]))
    sparse = pb.Attribute(name="sparse_value", sparse_tensor=b"\x18\x01", sparse_tensors=[b""])
    nodes = [constant, pb.Node(op_type="If", attribute=[branch, branches])]
    models = [
        pb.Model(ir_version=10, graph=pb.Graph(node=nodes, initializer=[_tensor(), *typed[:5]])),
        pb.Model(graph=pb.Graph(initializer=[_tensor(external_data=[b"\x0a\x01k"])])),
        pb.Model(graph=pb.Graph(initializer=[_tensor(data_location=1, segment=b"\x08\x01")])),
        pb.Model(graph=pb.Graph(node=[pb.Node(attribute=[sparse])], sparse_initializer=[b""])),
        pb.Model(graph=pb.Graph(node=[pb.Node(op_type="X", domain="com.microsoft")])),
        pb.Model(graph=pb.Graph(initializer=typed)),
        pb.Model(graph=pb.Graph(), functions=[b""], training_info=[b""]),
    ]
    return [model.SerializeToString() for model in models]


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """The check."""

    def check(data: bytes) -> None:
        try:
            check_graph(data, "stage0.onnx")
        except InvalidBundle as exc:
            if len(str(exc)) > 2_000:
                raise AssertionError(f"a message of {len(str(exc))} characters") from exc

    yield check
