"""Bundles whose answers a reader can work out by hand, built of a dozen ONNX nodes and without torch.

"scores", three stages on a 4x4 image; row k holds exit k's three logits, times 16:

    image (4, 4, 1) uint8 -> logits_0 = row 0 / 16, codes_1 = rows 1 and 2 / 16, (7,) of 4 bits
    codes_1               -> logits_1 = row 1,      scores_2 = row 2 (3,) float32, flags_2 (2, 2) uint8
    scores_2, flags_2     -> logits_2 = row 2 (and the mean of the flags, which shifts all alike)

"raw", two stages on a float32 tensor, without a codec:

    x (1, 3, 1) -> logits_0 = x * x, x_1 = x;    x_1 (3,) -> logits_1 = x_1
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import (
    Boundary,
    Bundle,
    Codec,
    Manifest,
    Network,
    Preparation,
    Stage,
    StageCost,
    write_manifest,
)
from offramp.exits import ExitPolicy, ExitSetting
from offramp.exits.certificate import Certificate, Risk, binomial_tail
from offramp.wire import TensorSpec

CLASSES = ("cat", "dog", "fox")
_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}

IMAGE = TensorSpec(name="image", dtype="uint8", shape=(4, 4, 1))
CODES_1 = TensorSpec(name="codes_1", dtype="uint8", shape=(7,), bits=4)  # and 4 bits of padding
SCORES_2 = TensorSpec(name="scores_2", dtype="float32", shape=(3,))
FLAGS_2 = TensorSpec(name="flags_2", dtype="uint8", shape=(2, 2))
RAW_0 = TensorSpec(name="x", dtype="float32", shape=(1, 3, 1))
RAW_1 = TensorSpec(name="x_1", dtype="float32", shape=(3,))


def pixels(*rows: Sequence[int]) -> NDArray[np.uint8]:
    """The image on which exit k has the logits of row k; (9, 0, 0) is sure (0.9998), (1, 0, 0) is not (0.58)."""
    image = np.zeros((4, 4, 1), np.uint8)
    for k, row in enumerate(rows):
        image[k, :3, 0] = np.multiply(row, 16)
    return image


SURE_AT = (  # by exit: an image that leaves there, with the class of the same number
    pixels((9, 0, 0), (0, 9, 0), (0, 0, 9)),
    pixels((1, 0, 0), (0, 9, 0), (0, 0, 9)),
    pixels((1, 0, 0), (0, 1, 0), (0, 0, 9)),
)


def scores_bundle(folder: Path) -> Path:
    """Writes "scores"."""
    stages = (_scores_0(), _scores_1(), _scores_2())
    boundaries = (
        Boundary(tensors=(IMAGE,)),
        Boundary(tensors=(CODES_1,), codec=Codec(channels=7, bits=4, stride=1)),
        Boundary(tensors=(SCORES_2, FLAGS_2)),
    )
    never, always = ExitSetting(on=False), ExitSetting(threshold=0.0)
    policies = (
        ExitPolicy(
            name="usual",
            exits=(
                ExitSetting(threshold=0.9),
                ExitSetting(threshold=0.9),
                ExitSetting(),
            ),
        ),
        ExitPolicy(name="never", exits=(never, never, ExitSetting())),
        ExitPolicy(name="always", exits=(always, always, ExitSetting())),
    )
    return _write(folder, "scores", stages, boundaries, policies)


def raw_bundle(folder: Path) -> Path:
    """Writes "raw"."""
    policy = ExitPolicy(name="usual", exits=(ExitSetting(threshold=0.9), ExitSetting()))
    boundaries = (Boundary(tensors=(RAW_0,)), Boundary(tensors=(RAW_1,)))
    return _write(folder, "raw", (_raw_0(), _raw_1()), boundaries, (policy,), preparation=None)


def single_bundle(folder: Path) -> Path:
    """Writes "single": one stage without early exits, x (3,) -> logits_0 = x."""
    stage = _model([helper.make_node("Identity", ["x_1"], ["logits_0"])], [RAW_1], [_logits(0)])
    policy = ExitPolicy(name="usual", exits=(ExitSetting(),))
    boundary = Boundary(tensors=(RAW_1,))
    return _write(folder, "single", (stage,), (boundary,), (policy,), preparation=None)


def certificate_of(bundle: Bundle, policy: ExitPolicy, *, risk: Risk, samples: int) -> Certificate:
    """That the policy errs on at most 1 %, with confidence 95 %: no errors of so many samples, at least 299."""
    return Certificate(
        policy=policy.id,
        network=bundle.digest,
        risk=risk,
        epsilon=0.01,
        delta=0.05,
        samples=samples,
        errors=0,
        p_value=binomial_tail(samples, 0, 0.01),
        data={"by hand": "0" * 64},
        fitted_on="0" * 64,
        certified_on="1" * 64,
    )


def _write(
    folder: Path,
    name: str,
    models: Sequence[onnx.ModelProto],
    boundaries: tuple[Boundary, ...],
    policies: tuple[ExitPolicy, ...],
    preparation: Preparation | None = Preparation(mean=(0.0,), std=(1.0,)),  # noqa: B008 (frozen)
) -> Path:
    folder.mkdir(parents=True)
    stages = []
    for k, model in enumerate(models):
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        (folder / f"stage{k}.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        stages.append(Stage(file=f"stage{k}.onnx", sha256=digest, logits=f"logits_{k}"))
    nothing = dict.fromkeys(set(StageCost.model_fields) - {"boundary_bytes"}, 0)
    manifest = Manifest(
        name=name,
        network=Network(
            preparation=preparation,
            classes=CLASSES,
            boundaries=boundaries,
            stages=tuple(stages),
        ),
        costs=tuple(StageCost(**nothing, boundary_bytes=b.size_bytes) for b in boundaries),
        policies=policies,
        provenance={"command": "tests/serving/toy.py"},
    )
    write_manifest(folder, manifest)
    return folder


def _model(
    nodes: Sequence[Any], takes: Sequence[TensorSpec], gives: Sequence[TensorSpec], **constants: Any
) -> onnx.ModelProto:
    def value(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], ["n", *spec.shape])

    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "toy", [*map(value, takes)], [*map(value, gives)], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="toy"
    )


def _logits(stage: int) -> TensorSpec:
    return TensorSpec(name=f"logits_{stage}", dtype="float32", shape=(3,))


def _slice(source: str, start: str, end: str, out: str) -> Any:
    return helper.make_node("Slice", [source, start, end, "axis"], [out])


def _scores_0() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Div", ["flat", "sixteen"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["scores"]),
        _slice("scores", "at_0", "at_3", "logits_0"),
        _slice("scores", "at_4", "at_11", "rest"),
        helper.make_node("Cast", ["rest"], ["codes_1"], to=TensorProto.UINT8),
    ]
    return _model(
        nodes,
        [IMAGE],
        [_logits(0), CODES_1],
        sixteen=np.float32(16),
        axis=[1],
        at_0=[0],
        at_3=[3],
        at_4=[4],
        at_11=[11],
    )


def _scores_1() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["codes_1"], ["scores"], to=TensorProto.FLOAT),
        _slice("scores", "at_0", "at_3", "logits_1"),
        _slice("scores", "at_4", "at_7", "scores_2"),
        _slice("codes_1", "at_0", "at_4", "four"),
        helper.make_node("Reshape", ["four", "square"], ["flags_2"]),
    ]
    return _model(
        nodes,
        [CODES_1],
        [_logits(1), SCORES_2, FLAGS_2],
        axis=[1],
        at_0=[0],
        at_3=[3],
        at_4=[4],
        at_7=[7],
        square=[-1, 2, 2],
    )


def _scores_2() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["flags_2"], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["flags"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Add", ["scores_2", "column"], ["logits_2"]),
    ]
    return _model(nodes, [SCORES_2, FLAGS_2], [_logits(2)], axis=[1])


def _raw_0() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["x_1"]),
        helper.make_node("Mul", ["x_1", "x_1"], ["logits_0"]),
    ]
    return _model(nodes, [RAW_0], [_logits(0), RAW_1])


def _raw_1() -> onnx.ModelProto:
    return _model([helper.make_node("Identity", ["x_1"], ["logits_1"])], [RAW_1], [_logits(1)])
