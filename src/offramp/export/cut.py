"""The whole graph cut into stages, each a self-contained ONNX file.

    stage k:  boundary k's tensors -> logits_k, boundary k + 1's tensors

With a codec the boundary is its codes and nothing else. Without one it is every value that is
computed before it and needed behind it: `onnx.utils.Extractor` takes out the stage once these
values are known, and `offramp.export.liveness` finds them. A value that a later stage needs passes
through those between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx.utils import Extractor

from offramp.errors import InvalidInput
from offramp.export.liveness import BATCH_SIZE, Dataflow, anchor_batch, subgraphs
from offramp.export.whole import BATCH, IMAGE, logits_name
from offramp.wire import TensorSpec


@dataclass(frozen=True, slots=True)
class CutStage:
    """One stage: its model, and the tensors of the boundary that feeds it."""

    model: ModelProto
    inputs: tuple[TensorSpec, ...]


def _spec(value: ValueInfoProto, name: str) -> TensorSpec:
    """A value as a tensor of a boundary, called `name`.

    Raises InvalidInput where it is not one row a sample.
    """
    tensor = value.type.tensor_type
    batch, *sizes = tensor.shape.dim or [onnx.TensorShapeProto.Dimension()]
    if batch.dim_param != BATCH or not all(size.HasField("dim_value") for size in sizes):
        raise InvalidInput(
            "exits.at", f"{value.name}, alive at a boundary, is not (batch, constant sizes...)"
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    try:
        return TensorSpec(name=name, dtype=dtype, shape=tuple(size.dim_value for size in sizes))
    except ValueError as exc:
        raise InvalidInput("exits.at", f"{value.name}, alive at a boundary: {exc}") from exc


def _boundaries(flow: Dataflow, markers: Sequence[str]) -> list[tuple[str, ...]]:
    """The values alive at boundaries 0 .. E - 1, by their names in the whole graph."""
    exits = len(markers) + 1
    alive: list[tuple[str, ...]] = [(IMAGE,)]
    for k in range(1, exits):
        before = flow.before([*(logits_name(j) for j in range(k)), *markers[:k]])
        behind = [*(logits_name(j) for j in range(k, exits)), *markers[k:]]
        found, marker = flow.alive(before, behind), markers[k - 1]
        if marker.startswith("codes_") and found != (marker,):
            others = ", ".join(name for name in found if name != marker)
            raise InvalidInput(
                f"exits.{k - 1}.codec", f"the layers behind it need more than its codes: {others}"
            )
        alive.append(found)
    return alive


def _on_the_wire(boundary: int, alive: Sequence[str], markers: Sequence[str]) -> dict[str, str]:
    """The names of a boundary's values between stages, by their names in the whole graph."""
    if boundary == 0 or (len(alive) == 1 and alive[0] == markers[boundary - 1]):
        return {name: name for name in alive}
    return {name: f"features_{boundary}_{j}" for j, name in enumerate(alive)}


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(copy):
        inner = [_renamed(node, names) for node in graph.node]
        del graph.node[:]
        graph.node.extend(inner)
    return copy


def _value(value: ValueInfoProto, name: str) -> ValueInfoProto:
    return onnx.helper.make_value_info(name, value.type)


def _extract(
    whole: ModelProto, stage: int, inputs: dict[str, str], outputs: dict[str, str]
) -> ModelProto:
    """One stage: `inputs` and `outputs` by name in the whole graph, with their new names."""
    anchored = ModelProto()
    anchored.CopyFrom(whole)
    # Whatever depends on the batch size hangs on this one node, so that it is rebuilt from the
    # boundary.
    next(n for n in anchored.graph.node if n.name == BATCH_SIZE).input[0] = next(iter(inputs))
    model = Extractor(anchored).extract_model(list(inputs), list(outputs))
    graph = model.graph
    produced = {name for node in graph.node for name in node.output}
    renamed = inputs | {name: given for name, given in outputs.items() if name in produced}
    nodes = [_renamed(node, renamed) for node in graph.node]
    nodes += [
        onnx.helper.make_node("Identity", [inputs[name]], [given])  # passed on to a later stage
        for name, given in outputs.items()
        if name not in produced
    ]
    cut = onnx.helper.make_graph(
        nodes,
        f"stage{stage}",
        [_value(value, inputs[value.name]) for value in graph.input],
        [_value(value, outputs[value.name]) for value in graph.output],
        list(graph.initializer),
    )
    result = onnx.helper.make_model(
        cut, ir_version=whole.ir_version, opset_imports=whole.opset_import, producer_name="offramp"
    )
    result.functions.extend(model.functions)
    onnx.checker.check_model(result, full_check=True)
    return result


def cut_stages(whole: ModelProto, markers: Sequence[str]) -> tuple[CutStage, ...]:
    """The stages of a whole graph (see `export_whole`), cut where `markers` mark its boundaries.

    markers: the outputs that mark boundaries 1 .. E - 1. Raises InvalidInput where a boundary has a
    codec but other values are needed behind it, or where a value alive at a boundary is not one row
    a sample.
    """
    whole = anchor_batch(onnx.shape_inference.infer_shapes(whole), IMAGE, BATCH)
    alive = _boundaries(Dataflow(whole.graph), markers)
    names = [_on_the_wire(k, values, markers) for k, values in enumerate(alive)]
    values = Extractor(whole).value_infos
    stages = []
    for k, inputs in enumerate(names):
        following = names[k + 1] if k + 1 < len(names) else {}
        model = _extract(whole, k, inputs, {logits_name(k): logits_name(k), **following})
        stages.append(
            CutStage(model, tuple(_spec(values[n], given) for n, given in inputs.items()))
        )
    return tuple(stages)
