"""Gradient equilibrium: no part of a network is swamped by the many exits behind it.

The gradient that reaches a stage becomes the mean of what the exits from there on ask for, in place
of their sum, whose variance grows with their number. Forward, nothing changes.

    features of exit k --(gradient / (E - k))--+--> head k
                                               +--(gradient * (E - k - 1))--> codec, stage k + 1

The weights of a codec lie between the two: what reaches them is the sum again, as without rescaling.
Source: Li, Zhang, Qi, Yang and Huang 2019 (ICCV), arXiv 1908.06294, section 3.1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree  # knows every container that torch.export knows

from offramp.models import ExitNetwork


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """The same numbers, whose gradient comes times factor."""
    same = tensor.view_as(tensor)
    if same.requires_grad:
        same.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return same


class _Scaling:
    """A forward hook. A class, because a hook is copied with its network."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def __call__(self, _module: nn.Module, _inputs: object, output: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda t: scaled(t, self._factor), output)


def equilibrate(network: ExitNetwork) -> None:
    """Every gradient that passes an exit's submodule is scaled from now on."""
    for k, exit_at in enumerate(network.exits):
        behind = network.exit_count - k - 1
        submodule = network.backbone.get_submodule(exit_at.at)
        # One hook before the network's own, which feeds the head, and one behind it.
        submodule.register_forward_hook(_Scaling(1 / (behind + 1)), prepend=True)
        submodule.register_forward_hook(_Scaling(behind))
