"""A value of the graph that crosses a boundary, in the form in which it travels: one row a sample.

    in the graph                      on the wire
    (N, ...)                          the same
    (L, N, C), states of an LSTM      (N, L, C)
    booleans, such as a mask          uint8 of one bit

N is the batch. What has no batch, or mixes it with other sizes, does not belong to a sample, and
cannot cross.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto

from offramp.errors import InvalidInput
from offramp.export.capture import BATCH
from offramp.wire import TensorSpec

_FIELD = "exits.at"


@dataclass(frozen=True, slots=True)
class Crossing:
    """One value: `source` in the whole graph, where `axis` is the batch, and its spec on the wire."""

    source: str
    spec: TensorSpec
    axis: int
    is_boolean: bool

    @property
    def wire(self) -> str:
        """Its name between stages."""
        return self.spec.name

    @property
    def is_plain(self) -> bool:
        """Whether it travels as it is."""
        return self.axis == 0 and not self.is_boolean

    def info(self) -> ValueInfoProto:
        """The stage's input or output."""
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.spec.dtype))
        return onnx.helper.make_tensor_value_info(self.wire, element, [BATCH, *self.spec.shape])

    def sending(self) -> list[NodeProto]:
        """The nodes from the value to what travels; none for a plain value."""
        first = (self.axis, *(k for k in range(len(self.spec.shape) + 1) if k != self.axis))
        return self._converted(self.source, self.wire, first, TensorProto.UINT8)

    def arriving(self) -> list[NodeProto]:
        """The nodes from what travels to the value; none for a plain value."""
        back = [*range(1, self.axis + 1), 0, *range(self.axis + 1, len(self.spec.shape) + 1)]
        return self._converted(self.wire, self.source, back, TensorProto.BOOL)

    def _converted(
        self, start: str, end: str, order: tuple[int, ...] | list[int], element: int
    ) -> list[NodeProto]:
        if self.is_plain:
            return []
        between = f"{self.wire}.in_order"
        if not self.is_boolean:
            return [onnx.helper.make_node("Transpose", [start], [end], perm=order)]
        return [
            onnx.helper.make_node("Transpose", [start], [between], perm=order),
            onnx.helper.make_node("Cast", [between], [end], to=element),
        ]


def crossing(values: Mapping[str, ValueInfoProto], source: str, wire: str) -> Crossing:
    """The value called `source` as it crosses a boundary, under the name `wire`.

    values: by name, with their types. Raises InvalidInput naming the value where it is not one row
    a sample, or of a dtype that does not travel.
    """
    tensor = values[source].type.tensor_type if source in values else onnx.TypeProto.Tensor()
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    if sizes.count(BATCH) != 1 or not all(size for size in sizes if size != BATCH):
        raise InvalidInput(
            _FIELD, f"{source}, alive at a boundary, is not one row a sample: {sizes}"
        )
    axis = sizes.index(BATCH)
    rest = sizes[:axis] + sizes[axis + 1 :]
    if not all(isinstance(size, int) for size in rest):
        raise InvalidInput(
            _FIELD, f"{source}, alive at a boundary, has a size that varies: {sizes}"
        )
    is_boolean = tensor.elem_type == TensorProto.BOOL
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    try:
        spec = TensorSpec(
            name=wire,
            dtype="uint8" if is_boolean else dtype,
            shape=tuple(size for size in rest if isinstance(size, int)),
            bits=1 if is_boolean else 0,
        )
    except ValueError as exc:
        raise InvalidInput(_FIELD, f"{source}, alive at a boundary: {exc}") from exc
    return Crossing(source, spec, axis, is_boolean)
