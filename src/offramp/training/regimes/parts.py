"""Which part of a network with exits each module belongs to, found by one pass.

stage 0 ... submodule of exit 0 | stage 1 ... submodule of exit 1 | stage 2 ... logits
head 0, gate 0                    head 1, gate 1; codec 1           codec 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.models import ExitNetwork
from offramp.models.flops import counted_flops

Kind = Literal["backbone", "head", "gate", "codec"]
_KINDS: dict[str, Kind] = {"heads": "head", "gates": "gate", "codecs": "codec"}


class Part(NamedTuple):
    """Backbone, head, gate or codec, and the stage; a codec's is the one behind its boundary."""

    kind: Kind
    stage: int


class _Watch:
    """Counts the exits that a pass has reached, and notes what ran where and at what cost."""

    def __init__(self, network: ExitNetwork, counter: FlopCounterMode) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        self._counter = counter
        self.reached_at: list[int] = []  # FLOPs, by exit
        self.stages: dict[str, int] = {}

    def enter(self, module: nn.Module, _inputs: object) -> None:
        self.stages.setdefault(self._names[module], len(self.reached_at))

    def reach(self, *_: object) -> None:
        self.reached_at.append(self._counter.get_total_flops())


@contextmanager
def _pass(network: ExitNetwork) -> Iterator[_Watch]:
    """One pass in evaluation mode, watched."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with counted_flops() as counter:
        watch = _Watch(network, counter)
        handles = [module.register_forward_pre_hook(watch.enter) for module in network.modules()]
        handles += [  # after the network's own hooks, so the head has run
            network.backbone.get_submodule(exit_at.at).register_forward_hook(watch.reach)
            for exit_at in network.exits
        ]
        try:
            network(network.sample())
            watch.reach()
            yield watch
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode


def parts_of(network: ExitNetwork) -> dict[str, Part]:
    """The part of every module, by the name that `network.named_modules()` gives it.

    A module belongs to the stage in which it begins to run; one that is never called, such as a
    projection whose weights its parent reads, to its parent's.
    """
    with _pass(network) as watch:
        stages = watch.stages
    parts: dict[str, Part] = {}
    for name, _ in network.named_modules():
        top, _, rest = name.partition(".")
        if top in _KINDS and rest:
            parts[name] = Part(_KINDS[top], int(rest.partition(".")[0]))
            continue
        parent = parts.get(name.rpartition(".")[0], Part("backbone", 0))
        parts[name] = Part("backbone", stages.get(name, parent.stage))
    return parts


def exit_flops(network: ExitNetwork) -> tuple[int, ...]:
    """FLOPs of one input up to each exit's answer, heads and gates on the way included."""
    with _pass(network) as watch:
        return tuple(watch.reached_at)
