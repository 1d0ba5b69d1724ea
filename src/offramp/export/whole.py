"""The whole network as one ONNX graph, in which every exit and every boundary is a named output.

    image (N, H, W, C) uint8, -> logits_0 .. logits_{E-1}, gate_k where exit k has a gate, and for
    or a raw tensor (N, ...)     each boundary k >= 1 codes_k (uint8) with a codec, else features_k

Initialisers keep the names of the network's state_dict and batch norms stay unfolded, so that the
weights can be read back from a bundle (`offramp.export.restore`); onnxruntime folds them when it
loads a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
from offramp.export.capture import capture, translate
from offramp.models import ExitNetwork

OPSET = 20  # the newest that IR version 10 carries; onnxruntime 1.17 and later run it


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitNames:
    """What the whole graph calls an exit's outputs: logits, gate, and the boundary behind it.

    boundary: `codes_k` with a codec; else the features, `features_k` or, of several tensors,
    `features_k_0`, ...; nothing behind the last exit.
    """

    logits: str
    gate: str | None
    boundary: tuple[str, ...]
    has_codec: bool


class Whole(NamedTuple):
    """The whole graph, and what it calls each exit's outputs."""

    model: onnx.ModelProto
    exits: tuple[ExitNames, ...]


def feature_names(boundary: int, tensors: int) -> tuple[str, ...]:
    """What the features at a boundary without a codec are called, by how many tensors they are."""
    if tensors == 1:
        return (f"features_{boundary}",)
    return tuple(f"features_{boundary}_{j}" for j in range(tensors))


def _exit_names(network: ExitNetwork) -> tuple[ExitNames, ...]:
    with torch.no_grad():
        counts = [len(tensors) for tensors in network(network.sample()).features]
    exits = []
    for k, tensors in enumerate((*counts, 0)):
        has_codec = network.codec(k + 1) is not None
        exits.append(
            ExitNames(
                logits=f"logits_{k}",
                gate=None if network.gate(k) is None else f"gate_{k}",
                boundary=(f"codes_{k + 1}",) if has_codec else feature_names(k + 1, tensors),
                has_codec=has_codec,
            )
        )
    return tuple(exits)


class _Flat(nn.Module):
    """ExitNetwork with its outputs as one flat tuple, the form that an ONNX graph can have."""

    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(inputs)
        gates = (gate for gate in outputs.gates if gate is not None)
        boundaries = (
            features if codes is None else (codes,)
            for features, codes in zip(outputs.features, outputs.codes, strict=True)
        )
        return (*outputs.logits, *gates, *(tensor for tensors in boundaries for tensor in tensors))


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


def export_whole(network: ExitNetwork) -> Whole:
    """The ONNX graph of a network, its batch dimension dynamic.

    Raises InvalidInput where the network is in training mode, has two outputs that are one tensor
    or cannot be exported (see `offramp.export.capture`).
    """
    if network.training:
        raise InvalidInput("network", "is in training mode; call eval() first")
    exits = _exit_names(network)
    outputs = [
        *(names.logits for names in exits),
        *(names.gate for names in exits if names.gate is not None),
        *(name for names in exits for name in names.boundary),
    ]
    # In channels-last memory the exporter spells pooling out as gathers over computed strides.
    contiguous = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = capture(_Flat(contiguous).eval(), network.sample(2), network)
    translated = translate(program, network.takes.name, outputs, OPSET)
    _simplify(translated.model, set(network.state_dict()))
    model: onnx.ModelProto = translated.model_proto
    found = [output.name for output in model.graph.output]
    if found != outputs:
        raise InvalidInput("exits.at", f"two exits lie at the same tensor: {found}, not {outputs}")
    model.producer_name, model.producer_version = "offramp", ""
    return Whole(model, exits)
