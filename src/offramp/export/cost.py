"""What each stage costs: FLOPs, counted by torch's own counter, and parameters.

Whatever runs between two taps belongs to the stage there; what runs inside a head, an encoder or a
decoder is that part's. So one pass over one image, with the counter read whenever a part begins or
ends, attributes everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.bundle import StageCost
from offramp.models import ExitNetwork

Part = tuple[str, int]  # "layers", "head" or "codec", and the stage that it belongs to


class _Ledger:
    """The part that runs now, and what each part has cost so far."""

    def __init__(self, network: ExitNetwork, counter: FlopCounterMode) -> None:
        self.flops: Counter[Part] = Counter()
        self.parameters: Counter[Part] = Counter()
        self._last_stage = network.exit_count - 1
        self._counter = counter
        self._counted = 0
        self._seen: set[int] = set()
        self._part: Part = ("layers", 0)

    def settle(self) -> None:
        """Book what was computed since the last time to the part that runs now."""
        total = self._counter.get_total_flops()
        self.flops[self._part] += total - self._counted
        self._counted = total

    def enter(self, part: Part) -> None:
        """Another part runs from here on."""
        self.settle()
        self._part = part

    def book(self, module: nn.Module) -> None:
        """Book a module's own parameters to the part that runs now, each tensor once."""
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in self._seen:
                self._seen.add(id(parameter))
                self.parameters[self._part] += parameter.numel()

    def book_the_rest(self, network: ExitNetwork) -> None:
        """Book what no module's pass has touched to the last stage."""
        self._part = ("layers", self._last_stage)
        for module in network.modules():
            self.book(module)


def _watched(network: ExitNetwork) -> Iterator[tuple[nn.Module, Part, Part]]:
    """Modules that are parts of their own, with their part and the one that runs after them."""
    for k, head in enumerate(network.heads):
        # What follows exit k belongs to stage k + 1, but for the codec, which is entered by itself.
        yield head, ("head", k), ("layers", k + 1)
        codec = network.codec(k + 1)
        if codec is not None:
            yield codec.encoder, ("codec", k), ("layers", k)
            yield codec.decoder, ("codec", k + 1), ("layers", k + 1)


@contextmanager
def _watching(network: ExitNetwork, ledger: _Ledger) -> Iterator[None]:
    def entering(part: Part) -> Callable[[nn.Module, object], None]:
        return lambda _module, _inputs: ledger.enter(part)

    def leaving(part: Part) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, _output: ledger.enter(part)

    handles = []
    for module, part, following in _watched(network):
        handles.append(module.register_forward_pre_hook(entering(part)))
        handles.append(module.register_forward_hook(leaving(following)))
    handles += [
        module.register_forward_pre_hook(lambda module, _inputs: ledger.book(module))
        for module in network.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stage_costs(
    network: ExitNetwork, image_shape: tuple[int, int, int], boundary_bytes: tuple[int, ...]
) -> tuple[StageCost, ...]:
    """The cost of each stage for one image of (H, W, C); its parameters in all are the network's.

    boundary_bytes: of boundaries 0 .. E - 1. A codec's encoder counts for the stage before the
    boundary, its decoder for the one behind it. Counted are the operators that FlopCounterMode
    knows (convolutions and matrix products, 2 FLOPs a multiply-accumulate); norms, activations and
    pooling count nothing.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ledger = _Ledger(network, counter)
        with _watching(network, ledger):
            network(torch.zeros((1, *image_shape), dtype=torch.uint8))
        ledger.settle()
    network.train(was_training)
    ledger.book_the_rest(network)
    return tuple(
        StageCost(
            flops=ledger.flops["layers", k],
            parameters=ledger.parameters["layers", k],
            head_flops=ledger.flops["head", k],
            head_parameters=ledger.parameters["head", k],
            codec_flops=ledger.flops["codec", k],
            codec_parameters=ledger.parameters["codec", k],
            boundary_bytes=size,
        )
        for k, size in enumerate(boundary_bytes)
    )
