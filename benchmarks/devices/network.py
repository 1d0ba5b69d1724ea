"""Two networks made node by node, whose weights are random: what a request costs depends on none of them.

    tiny   16 numbers -> one matrix -> 4 logits         microseconds: what is left is the framework
    split  image (3, 32, 32) -> one convolution -> exit 0 | codes (16, 16, 16) -> a chain of convolutions -> exit 1

The chain of `split` is as long as a benchmark asks. Both are written under runs/devices by the `onnx` package alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.devices.stream import Form
from offramp.bundle import Boundary, Manifest, Network, Stage, StageCost, write_manifest
from offramp.exits import ExitPolicy, ExitSetting
from offramp.wire import TensorSpec

FOLDER = Path("runs/devices")
SEED = 5
POLICY = "last-exit"  # no early exit: whatever a tier can hand on, it does
POOL = 64
_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
_NUMBERS = TensorSpec(name="numbers", dtype="float32", shape=(16,))
_IMAGE = TensorSpec(name="image", dtype="uint8", shape=(3, 32, 32))
_CODES = TensorSpec(name="codes_1", dtype="uint8", shape=(16, 16, 16))
_NARROW, _WIDE, _CLASSES = 16, 64, 4


class _Part(NamedTuple):
    """One stage: its nodes, the tensors that it takes and gives beside its logits, its constants."""

    nodes: Sequence[Any]
    takes: TensorSpec
    gives: Sequence[TensorSpec]
    constants: Mapping[str, NDArray[Any] | np.float32]


def tiny() -> Path:
    """The bundle of one matrix."""
    weights = {"weights": _random(16, _CLASSES)}
    nodes = [helper.make_node("MatMul", ["numbers", "weights"], ["logits_0"])]
    return _written("tiny", [_Part(nodes, _NUMBERS, (), weights)])


def split(convolutions: int) -> Path:
    """The bundle of two stages, the second of so many convolutions."""
    return _written(f"split-{convolutions}", [_first(), _chain(convolutions)])


def numbers(**more: int) -> Form:
    """A pool of samples of `tiny`; more: of Form."""
    drawn = np.random.default_rng(SEED).normal(size=(POOL, 16)).astype(np.float32)
    return Form(0, POLICY, [one.tobytes() for one in drawn], **more)


def images() -> Form:
    """A pool of images for `split`."""
    return Form(0, POLICY, _bytes_of(_IMAGE))


def codes(**more: int) -> Form:
    """A pool of samples for the second stage of `split`, as a device would hand them on; more: of Form."""
    return Form(1, POLICY, _bytes_of(_CODES), **more)


def _bytes_of(spec: TensorSpec) -> list[bytes]:
    drawn = np.random.default_rng(SEED).integers(0, 256, (POOL, *spec.shape), np.uint8)
    return [one.tobytes() for one in drawn]


def _random(*shape: int) -> NDArray[np.float32]:
    """Weights (outputs, inputs, ...) that keep the size of what passes (He et al., arXiv 1502.01852, section 2.2)."""
    scale = np.sqrt(2 / np.prod(shape[1:]))
    drawn: NDArray[np.float64] = np.random.default_rng(SEED).normal(size=shape)
    weights: NDArray[np.float32] = (scale * drawn).astype(np.float32)
    return weights


def _exit(
    source: str, width: int, stage: int
) -> tuple[list[Any], dict[str, NDArray[Any] | np.float32]]:
    """Mean over the picture, one matrix: the nodes and constants of an exit."""
    nodes = [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], [f"logits_{stage}"]),
    ]
    return nodes, {"head": _random(width, _CLASSES)}


def _first() -> _Part:
    """A convolution that halves the picture, the exit, and its outputs as codes."""
    nodes, constants = _exit("seen", _NARROW, 0)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "weights"], ["raw"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["raw"], ["seen"]),
        *nodes,
        helper.make_node("Mul", ["seen", "steps"], ["spread"]),
        helper.make_node("Clip", ["spread", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["codes_1"], to=TensorProto.UINT8),
    ]
    constants |= {
        "scale": np.float32(1 / 255),
        "weights": _random(_NARROW, 3, 3, 3),
        "steps": np.float32(64),
        "low": np.float32(0),
        "high": np.float32(255),
    }
    return _Part(nodes, _IMAGE, (_CODES,), constants)


def _chain(convolutions: int) -> _Part:
    """Convolutions of 64 channels on 16 x 16 points, of 9.4 million multiplications each."""
    nodes, constants = _exit(f"x{convolutions}", _WIDE, 1)
    steps = [
        helper.make_node("Cast", ["codes_1"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["codes", "scale"], ["x0"]),
    ]
    constants["scale"] = np.float32(1 / 64)
    for k in range(convolutions):
        constants[f"weights{k}"] = _random(_WIDE, _WIDE if k else _NARROW, 3, 3)
        steps += [
            helper.make_node("Conv", [f"x{k}", f"weights{k}"], [f"raw{k}"], pads=[1] * 4),
            helper.make_node("Relu", [f"raw{k}"], [f"x{k + 1}"]),
        ]
    return _Part([*steps, *nodes], _CODES, (), constants)


def _model(part: _Part, stage: int) -> bytes:
    def value(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], ["n", *spec.shape])

    logits = TensorSpec(name=f"logits_{stage}", dtype="float32", shape=(_CLASSES,))
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in part.constants.items()]
    outputs = [value(spec) for spec in (logits, *part.gives)]
    graph = helper.make_graph(part.nodes, "devices", [value(part.takes)], outputs, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="benchmarks"
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _written(name: str, parts: Sequence[_Part]) -> Path:
    """The bundle's folder, written anew: that takes no time worth sparing."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    stages = []
    for k, part in enumerate(parts):
        content = _model(part, k)
        (folder / f"stage{k}.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        stages.append(Stage(file=f"stage{k}.onnx", sha256=digest, logits=f"logits_{k}"))
    boundaries = tuple(Boundary(tensors=(part.takes,)) for part in parts)
    nothing = dict.fromkeys(set(StageCost.model_fields) - {"boundary_bytes"}, 0)
    early = [ExitSetting(on=False)] * (len(parts) - 1)
    manifest = Manifest(
        name=name,
        network=Network(
            preparation=None,
            classes=tuple(str(k) for k in range(_CLASSES)),
            boundaries=boundaries,
            stages=tuple(stages),
        ),
        costs=tuple(StageCost(**nothing, boundary_bytes=b.size_bytes) for b in boundaries),
        policies=(ExitPolicy(name=POLICY, exits=(*early, ExitSetting())),),
        provenance={"command": "benchmarks/devices/network.py"},
    )
    write_manifest(folder, manifest)
    return folder
