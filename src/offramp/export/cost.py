"""What each stage costs: FLOPs, counted by torch's own counter, and parameters.

Whatever runs between two taps belongs to the stage there; what runs inside a head, an encoder or a
decoder is that part's. So one pass over one image, with the counter read whenever a part begins or
ends, attributes everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.bundle import StageCost
from offramp.models import ExitNetwork
from offramp.models.flops import counted_flops

Part = tuple[str, int]  # "layers", "head" or "codec", and the stage that it belongs to


class _Ledger:
    """The part that runs now, what each part has cost so far, and in which each module began."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.flops: Counter[Part] = Counter()
        self._counter = counter
        self._counted = 0
        self._began: dict[nn.Module, Part] = {}
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

    def begin(self, module: nn.Module) -> None:
        """A module begins to run."""
        self._began.setdefault(module, self._part)

    def parameters(self, network: ExitNetwork) -> Counter[Part]:
        """The parameters of each part, each tensor once.

        A module's belong to the part in which it began; those of one that is never called, such as
        a projection whose weights its parent reads, to its parent's part.
        """
        parts: dict[str, Part] = {}
        seen: set[nn.Parameter] = set()
        counts: Counter[Part] = Counter()
        for name, module in network.named_modules():
            parent = parts.get(name.rpartition(".")[0], ("layers", 0))
            part = parts[name] = self._began.get(module, parent)
            new = set(module.parameters(recurse=False)) - seen
            counts[part] += sum(parameter.numel() for parameter in new)
            seen |= new
        return counts


def _watched(network: ExitNetwork) -> Iterator[tuple[nn.Module, Part, Part]]:
    """Modules that are parts of their own, with their part and the one that runs after them."""
    for k, head in enumerate(network.heads):
        # What follows exit k belongs to stage k + 1, but for the codec, which is entered by itself.
        yield head, ("head", k), ("layers", k + 1)
        gate, codec = network.gate(k), network.codec(k + 1)
        if gate is not None:
            yield gate, ("head", k), ("layers", k + 1)
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
        module.register_forward_pre_hook(lambda module, _inputs: ledger.begin(module))
        for module in network.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stage_costs(network: ExitNetwork, boundary_bytes: tuple[int, ...]) -> tuple[StageCost, ...]:
    """The cost of each stage for one sample; the parameters in all are the network's.

    boundary_bytes: of boundaries 0 .. E - 1. A codec's encoder counts for the stage before the
    boundary, its decoder for the one behind it; a gate counts as part of its head. What counts as a
    FLOP is said in `offramp.models.flops`.
    """
    was_training = network.training
    network.eval()
    with counted_flops() as counter:
        ledger = _Ledger(counter)
        with _watching(network, ledger):
            network(network.sample())
        ledger.settle()
    network.train(was_training)
    parameters = ledger.parameters(network)
    return tuple(
        StageCost(
            flops=ledger.flops["layers", k],
            parameters=parameters["layers", k],
            head_flops=ledger.flops["head", k],
            head_parameters=parameters["head", k],
            codec_flops=ledger.flops["codec", k],
            codec_parameters=parameters["codec", k],
            boundary_bytes=size,
        )
        for k, size in enumerate(boundary_bytes)
    )
