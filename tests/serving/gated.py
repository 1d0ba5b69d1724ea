"""The bundle "scores" of toy.py with a learned gate at both early exits, and a policy of every kind.

The gate of exit k is the fourth score of row k less 8: open from 8, which is 128 in the image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.serving import toy

from offramp.bundle import load_bundle, write_manifest
from offramp.exits import ExitPolicy, ExitSetting


def _policy(name: str, threshold: float, *weights: float, **kind: str) -> ExitPolicy:
    exits = tuple(
        ExitSetting(threshold=threshold, temperature=1.5, weight=w) for w in weights or (1, 1, 1)
    )
    return ExitPolicy(name=name, exits=exits, **kind)


POLICIES = (
    _policy("usual", 0.9),
    _policy("entropy", 0.5, rule="entropy"),
    _policy("margin", 0.5, rule="margin"),
    _policy("patience", 2.0, rule="patience"),
    _policy("gate", 0.5, rule="gate"),
    _policy("anytime", -10.0, rule="anytime"),
    _policy("mean", 0.7, 1, 2, 3, combine="mean"),
    _policy("geometric", 0.7, 1, 2, 3, combine="geometric"),
    _policy("patience of means", 2.0, rule="patience", combine="mean"),
)


def gated_bundle(folder: Path) -> Path:
    """Writes "gated"."""
    bundle = load_bundle(toy.scores_bundle(folder))
    stages = list(bundle.manifest.network.stages)
    for k in (0, 1):
        path = bundle.stage_path(k)
        content = _with_gate(onnx.load(path), f"gate_{k}").SerializeToString()
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        stages[k] = stages[k].model_copy(update={"sha256": digest, "gate": f"gate_{k}"})
    network = bundle.manifest.network.model_copy(update={"stages": tuple(stages)})
    fields = {"name": "gated", "network": network, "policies": POLICIES}
    write_manifest(folder, bundle.manifest.model_copy(update=fields))
    return folder


def _with_gate(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    graph = model.graph
    for constant, value in (("at_3_", [3]), ("at_4_", [4]), ("axis_", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(value), constant))
    graph.initializer.append(numpy_helper.from_array(np.float32(8), "eight"))
    graph.node.extend(
        [
            helper.make_node("Slice", ["scores", "at_3_", "at_4_", "axis_"], ["fourth"]),
            helper.make_node("Squeeze", ["fourth", "axis_"], ["score"]),
            helper.make_node("Sub", ["score", "eight"], [name]),
        ]
    )
    graph.output.insert(1, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]))
    onnx.checker.check_model(model, full_check=True)
    return model


def random_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of small scores, on which exits are rarely sure and often differ, and of gates as often open as not."""
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 7, (count, 4, 4, 1)) * 16
    images[:, :, 3] = chance.integers(0, 16, (count, 4, 1)) * 16
    return images.astype(np.uint8)
