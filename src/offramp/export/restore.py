"""A bundle back into a network: its recipe says the layers, its ONNX files hold the weights.

So parity can be checked, and training gone on with, from the bundle alone.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import numpy_helper
from pydantic import ValidationError

from offramp.bundle import Bundle
from offramp.errors import InvalidBundle
from offramp.training import Recipe, Run, build_network

# Batch norms count their batches, which no inference reads and no graph holds.
_NOT_EXPORTED = "num_batches_tracked"


def _weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return {
        weight.name: torch.from_numpy(numpy_helper.to_array(weight).copy())
        for k in bundle.held
        for weight in onnx.load_model_from_string(bundle.stage_bytes(k)).graph.initializer
    }


def _recipe(provenance: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(provenance.get("recipe"))
    except ValidationError as exc:
        raise InvalidBundle("provenance.recipe", "says no network that can be rebuilt") from exc


def open_bundle(bundle: Bundle) -> Run:
    """The network of a bundle, in evaluation mode, as `open_run` gives that of a run.

    Raises InvalidBundle where the bundle does not say its recipe or its stages do not hold all of
    the weights, as those of int8 do not.
    """
    described = bundle.manifest.network
    if any(stage.arithmetic != "float32" for stage in described.stages):
        text = "are int8, and the weights are rounded; take the bundle that this one was made of"
        raise InvalidBundle(f"{bundle.folder}: stages", text)
    recipe = _recipe(bundle.manifest.provenance)
    if described.preparation is None:
        raise InvalidBundle("provenance.recipe", "is of images, and this network takes raw tensors")
    height, width, channels = described.takes.shape
    network = build_network(recipe, (height, width, channels), len(described.classes))
    weights = _weights(bundle)
    wanted = {name for name in network.state_dict() if not name.endswith(_NOT_EXPORTED)}
    missing = sorted(wanted - set(weights))
    if missing:
        raise InvalidBundle(f"{bundle.folder}: stages", f"lack the weights {', '.join(missing)}")
    network.load_state_dict({name: weights[name] for name in wanted}, strict=False)
    return Run(network.eval(), recipe, bundle.manifest.provenance)
