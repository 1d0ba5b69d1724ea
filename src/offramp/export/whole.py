"""The whole network as one ONNX graph, in which every exit and every boundary is a named output.

    image (N, H, W, C) uint8 -> logits_0 .. logits_{E-1}, and for each boundary k >= 1
                                codes_k (uint8) with a codec, features_k without one

Initialisers keep the names of the network's state_dict and batch norms stay unfolded, so that the
weights can be read back from a bundle (`offramp.export.restore`); onnxruntime folds them when it
loads a stage.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    RemoveUnusedNodesPass,
)
from onnxscript import ir
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor, nn

from offramp.errors import InvalidInput
from offramp.models import ExitNetwork

OPSET = 20  # the newest that IR version 10 carries; onnxruntime 1.17 and later run it
IMAGE, BATCH = "image", "batch"


def logits_name(exit_index: int) -> str:
    """The output that holds the logits of an exit."""
    return f"logits_{exit_index}"


def marker_names(network: ExitNetwork) -> tuple[str, ...]:
    """Outputs that mark boundaries 1 .. E - 1: `codes_k` with a codec, else `features_k`."""
    return tuple(
        f"{'features' if network.codec(k) is None else 'codes'}_{k}"
        for k in range(1, network.exit_count)
    )


class _Flat(nn.Module):
    """ExitNetwork with its outputs as one flat tuple, the form that an ONNX graph can have."""

    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        boundaries = (
            features if codes is None else codes
            for features, codes in zip(outputs.features, outputs.codes, strict=True)
        )
        return (*outputs.logits, *boundaries)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what the exporter says of itself: deprecations, torchvision."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)


def _simplify(model: ir.Model, names: set[str]) -> None:
    """Fold what is constant, drop what is unused, and leave the network's weights as they are."""

    def should_fold(node: ir.Node) -> bool | None:
        touches_weights = any(value is not None and value.name in names for value in node.inputs)
        return False if touches_weights and node.op_type not in ("Shape", "Size") else None

    for value in list(model.graph.initializers.values()):
        if value.name is not None and value.name.startswith("network."):
            value.name = value.name.removeprefix("network.")
    fold_constants_ir(model, should_fold=should_fold)
    for graph_pass in (
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        NameFixPass(),
        ClearMetadataAndDocStringPass(),
    ):
        graph_pass(model)


def export_whole(network: ExitNetwork, image_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The ONNX graph of a network for (H, W, C) images, its batch dimension dynamic.

    Raises InvalidInput where the network is in training mode, fixes the batch size, or has two
    outputs that are one tensor.
    """
    if network.training:
        raise InvalidInput("network", "is in training mode; call eval() first")
    outputs = [
        *(logits_name(k) for k in range(network.exit_count)),
        *marker_names(network),
    ]
    # In channels-last memory the exporter spells pooling out as gathers over computed strides.
    contiguous = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Flat(contiguous).eval(),
            (torch.zeros((2, *image_shape), dtype=torch.uint8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            optimize=False,
            verbose=False,
        )
        assert program is not None  # noqa: S101 (narrows the type; None is for the old exporter)
        _simplify(program.model, set(network.state_dict()))
        model: onnx.ModelProto = program.model_proto
    found = [output.name for output in model.graph.output]
    if found != outputs:
        raise InvalidInput("exits.at", f"two exits lie at the same tensor: {found}, not {outputs}")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch.dim_param != BATCH:
        raise InvalidInput("backbone", "its forward pass fixes the batch size (by len(), perhaps)")
    model.producer_name, model.producer_version = "offramp", ""
    return model
