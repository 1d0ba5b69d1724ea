"""The whole graph cut into stages, each a self-contained ONNX file.

    stage k:  boundary k's tensors -> logits_k, gate_k, boundary k + 1's tensors

With a codec the boundary is its codes and nothing else. Without one it is every value that is
computed before it and needed behind it: `onnx.utils.Extractor` takes out the stage once these
values are known, and `offramp.export.liveness` finds them. A value that a later stage needs passes
through those between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto
from onnx.utils import Extractor

from offramp.errors import InvalidInput
from offramp.export.batch_size import BATCH_SIZE, anchor_batch
from offramp.export.capture import BATCH
from offramp.export.crossing import Crossing, crossing
from offramp.export.liveness import Dataflow, subgraphs
from offramp.export.whole import ExitNames, Whole
from offramp.wire import TensorSpec


@dataclass(frozen=True, slots=True)
class CutStage:
    """One stage: its model, and the tensors of the boundary that feeds it."""

    model: ModelProto
    inputs: tuple[TensorSpec, ...]


def _outputs(names: ExitNames) -> tuple[str, ...]:
    """What an exit itself says: its logits, and its gate where it has one."""
    return (names.logits,) if names.gate is None else (names.logits, names.gate)


def _alive(flow: Dataflow, exits: Sequence[ExitNames]) -> list[tuple[str, ...]]:
    """The values alive at boundaries 1 .. E - 1, by their names in the whole graph."""
    boundaries = []
    for k, names in enumerate(exits[:-1], start=1):
        # What only heads compute counts as behind: one of the pools of a head may be one that the
        # backbone needs as well, and is better computed there than sent.
        before = flow.before(name for exit_ in exits[:k] for name in exit_.boundary)
        behind = [name for exit_ in exits[k:] for name in (*_outputs(exit_), *exit_.boundary)]
        found = flow.alive(before, behind)
        if names.has_codec and found != names.boundary:
            others = ", ".join(name for name in found if name not in names.boundary)
            raise InvalidInput(
                f"exits.{k - 1}.codec", f"the layers behind it need more than its codes: {others}"
            )
        boundaries.append(found)
    return boundaries


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


def _sent(taken: Sequence[Crossing], given: Sequence[Crossing]) -> list[NodeProto]:
    """The nodes that make the next boundary's tensors; what the stage was given, it passes on."""
    arrived = {value.source: value.wire for value in taken}
    nodes = []
    for value in given:
        if value.source in arrived:
            nodes.append(onnx.helper.make_node("Identity", [arrived[value.source]], [value.wire]))
        else:
            nodes += value.sending()
    return nodes


def _extract(
    whole: ModelProto, own: Sequence[str], taken: Sequence[Crossing], given: Sequence[Crossing]
) -> ModelProto:
    """One stage: from the values that it takes to its exit's own outputs and the values it gives."""
    anchored = ModelProto()
    anchored.CopyFrom(whole)
    # Whatever depends on the batch size hangs on this one node, so that it is rebuilt from the
    # boundary.
    anchor = next(node for node in anchored.graph.node if node.name == BATCH_SIZE)
    anchor.input[0] = taken[0].source
    sources = {value.source for value in taken}
    wanted = [*own, *(value.source for value in given if value.source not in sources)]
    model = Extractor(anchored).extract_model([value.source for value in taken], wanted)
    renamed = {value.source: value.wire for value in (*given, *taken) if value.is_plain}
    nodes = [node for value in taken for node in value.arriving()]
    for node in model.graph.node:
        if node.name == BATCH_SIZE:
            node.input[0] = taken[0].wire  # the batch is first there
        nodes.append(_renamed(node, renamed))
    nodes += _sent(taken, given)
    exit_outputs = [
        onnx.helper.make_value_info(value.name, value.type)  # without the exporter's metadata
        for value in model.graph.output
        if value.name in own
    ]
    cut = onnx.helper.make_graph(
        nodes,
        "stage",
        [value.info() for value in taken],
        [*exit_outputs, *(value.info() for value in given)],
        list(model.graph.initializer),
    )
    result = onnx.helper.make_model(
        cut, ir_version=whole.ir_version, opset_imports=whole.opset_import, producer_name="offramp"
    )
    result.functions.extend(model.functions)
    onnx.checker.check_model(result, full_check=True)
    return result


def cut_stages(whole: Whole) -> tuple[CutStage, ...]:
    """The stages of a whole graph, cut at the boundaries that its exits name.

    Raises InvalidInput where a boundary has a codec but other values are needed behind it, or where
    a value alive at a boundary is not one row a sample.
    """
    source = whole.model.graph.input[0].name
    model = anchor_batch(onnx.shape_inference.infer_shapes(whole.model), source, BATCH)
    values = Extractor(model).value_infos
    boundaries = [[crossing(values, source, source)]]
    for k, alive in enumerate(_alive(Dataflow(model.graph), whole.exits), start=1):
        marked = whole.exits[k - 1].boundary
        boundaries.append(
            [
                crossing(values, name, name if name in marked else f"alive_{k}_{j}")
                for j, name in enumerate(alive)
            ]
        )
    return tuple(
        CutStage(
            _extract(model, _outputs(names), taken, given), tuple(value.spec for value in taken)
        )
        for names, taken, given in zip(whole.exits, boundaries, [*boundaries[1:], []], strict=True)
    )
