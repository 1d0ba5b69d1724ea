"""The feature tensors in what a submodule yields, whatever holds them, and how to replace them.

    tensor                          convolution, block, encoder layer
    [tensor, tensor, ...]           the scales of a multi-scale network; also a tuple or a mapping
    (tensor, (state, state))        a recurrent layer with its states
    (tensor, attentions), output    a transformer's layer; a Hugging Face `ModelOutput`

Features are the floating-point tensors that have the batch first (states of nn.LSTM have it second)
and as many dimensions as the first of these (attention maps have more).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree  # knows every container that torch.export knows

Tensors = tuple[Tensor, ...]
Shape = tuple[int, ...]  # of one sample: no batch dimension


@dataclass(frozen=True, slots=True)
class Features:
    """Where in a submodule's flattened output its features are, and their shapes a sample.

    overwritten: whether a later layer works on them in place, as activations may.
    """

    places: tuple[int, ...]
    shapes: tuple[Shape, ...]
    overwritten: bool = False

    def of(self, output: object) -> Tensors:
        """The feature tensors."""
        leaves = pytree.tree_leaves(output)
        return tuple(leaves[place] for place in self.places)

    def replaced(self, output: object, tensors: Sequence[Tensor]) -> Any:
        """The same output with these in place of its feature tensors."""
        leaves, container = pytree.tree_flatten(output)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, container)

    @property
    def coarsest(self) -> int:
        """The index of the features with the fewest places or tokens; of equals the first."""
        return min(range(len(self.shapes)), key=lambda i: _extent(self.shapes[i]))


def _extent(shape: Shape) -> int:
    """How many places (H x W) or tokens features have: (C, H, W), (T, C) or (C,) -> a number."""
    return prod(shape[1:]) if len(shape) == 3 else prod(shape[:-1])


class Yielded:
    """What a submodule yielded, and whether it has been worked on in place since."""

    def __init__(self, at: str, output: object) -> None:
        self.at, self.output = at, output
        self._versions = self._now()

    def _now(self) -> list[int]:
        leaves = pytree.tree_leaves(self.output)
        return [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def overwritten(self) -> bool:
        """Whether any of its tensors has."""
        return self._now() != self._versions


def find_features(outputs: Mapping[int, object], *, overwritten: bool = False) -> Features:
    """What follows the batch size in a submodule's outputs, given by batch size (at least two).

    The result has no places where nothing does.
    """
    columns = zip(*(pytree.tree_leaves(output) for output in outputs.values()), strict=False)
    found: list[tuple[int, Shape]] = []
    for place, leaves in enumerate(columns):
        if all(
            isinstance(leaf, Tensor)
            and leaf.is_floating_point()
            and leaf.ndim in (2, 3, 4)
            and leaf.shape[0] == batch
            for leaf, batch in zip(leaves, outputs, strict=True)
        ):
            shape = tuple(leaves[0].shape[1:])
            if not found or len(shape) == len(found[0][1]):
                found.append((place, shape))
    places, shapes = (tuple(place for place, _ in found), tuple(shape for _, shape in found))
    return Features(places, shapes, overwritten)


def logits_of(output: object) -> object:
    """A backbone's logits: its output, or `logits` of its model output or mapping."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return getattr(output, "logits", output)
