"""Whether an opened stage has the names, dtypes and shapes that the manifest describes.

The hash of the file says that it is the one that was exported; this says that the export kept its
promise. It takes what `onnxruntime.InferenceSession.get_inputs()` and `get_outputs()` give,
without importing onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from offramp.bundle.manifest import Manifest
from offramp.errors import InvalidBundle

_ELEMENTS = {"float32": "float", "float16": "float16"}  # others have the same name in ONNX


class NodeArg(Protocol):
    """A graph's input or output as onnxruntime shows it; a dynamic size is a string or None."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def type(self) -> str:
        """Its element type, like `tensor(uint8)`."""

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Its dimensions, the batch first."""


def _expect(
    field: str, found: Sequence[NodeArg], wanted: Sequence[tuple[str, str, tuple[int, ...]]]
) -> None:
    names = [name for name, _, _ in wanted]
    if [argument.name for argument in found] != names:
        raise InvalidBundle(field, f"are {[a.name for a in found]}, but the manifest says {names}")
    for argument, (name, dtype, shape) in zip(found, wanted, strict=True):
        element = f"tensor({_ELEMENTS.get(dtype, dtype)})"
        if argument.type != element:
            raise InvalidBundle(f"{field}.{name}", f"is a {argument.type}, not a {element}")
        batch, *sizes = argument.shape or [1]
        if isinstance(batch, int):
            raise InvalidBundle(f"{field}.{name}", f"takes batches of {batch} only")
        if tuple(sizes) != shape:
            raise InvalidBundle(f"{field}.{name}", f"is {sizes} per sample, not {list(shape)}")


def check_stage(
    manifest: Manifest, stage: int, inputs: Sequence[NodeArg], outputs: Sequence[NodeArg]
) -> None:
    """Return where the opened stage has the manifest's tensors, in its order, with a dynamic batch.

    inputs: those of boundary `stage`; outputs: the stage's logits, its gate where it has one, then
    the tensors of boundary `stage` + 1. Raises InvalidBundle naming the stage's file and the tensor.
    """
    network = manifest.network
    exit_outputs: list[tuple[str, str, tuple[int, ...]]] = [
        (network.stages[stage].logits, "float32", (len(network.classes),))
    ]
    if (gate := network.stages[stage].gate) is not None:
        exit_outputs.append((gate, "float32", ()))
    following = network.boundaries[stage + 1].tensors if stage + 1 < len(network.stages) else ()
    file = network.stages[stage].file
    _expect(
        f"{file}: inputs",
        inputs,
        [(t.name, t.dtype, t.shape) for t in network.boundaries[stage].tensors],
    )
    _expect(
        f"{file}: outputs",
        outputs,
        [*exit_outputs, *((t.name, t.dtype, t.shape) for t in following)],
    )
