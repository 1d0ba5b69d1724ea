"""Where exits can be: the submodules behind which nothing but their own features is needed.

    all submodules --run once, a head (and codec) takes their features--> usable
                   --the logits follow from the features alone--> clean
                   --the last of those at equal FLOPs--> candidates

That the logits follow from the features alone is tried out: the network is run on one input with the
features of another, and must say to the bit what it says of the other. So the inside of a residual
block is no candidate, and no boundary has more than one submodule's tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from offramp.models.attach import CannotAttach, dry_run, make_attachment
from offramp.models.features import Tensors, logits_of
from offramp.models.flops import counted_flops
from offramp.models.network import Attachment, ExitAt, Preparation, blank
from offramp.wire import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A place for an exit.

    flops: of the backbone up to there. own_flops: of head, gate and codec there.
    """

    attachment: Attachment
    flops: int
    own_flops: int

    @property
    def at(self) -> str:
        """The submodule's name."""
        return self.attachment.exit_at.at


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The places of a backbone, in the order in which they run, and the FLOPs of all of it."""

    places: tuple[Candidate, ...]
    flops: int


class _Backbone:
    """A backbone that takes samples as the network with exits will."""

    def __init__(self, backbone: nn.Module, prepare: Preparation | None, takes: TensorSpec) -> None:
        self.module, self.prepare, self.takes = backbone, prepare, takes

    def logits(self, inputs: Tensor) -> Tensor:
        prepared = inputs if self.prepare is None else self.prepare(inputs)
        logits = logits_of(self.module(prepared))
        assert isinstance(logits, Tensor)  # noqa: S101 (narrows the type; `dry_run` saw one)
        return logits

    def samples(self, seed: int) -> Tensor:
        """One sample of noise."""
        generator = torch.Generator().manual_seed(seed)
        zero = blank(self.takes, 1, self.module)
        if zero.is_floating_point():
            noise = torch.randn(zero.shape, generator=generator).to(zero.dtype)
        else:
            top = 256 if zero.dtype == torch.uint8 else 2
            noise = torch.randint(0, top, zero.shape, generator=generator, dtype=zero.dtype)
        return noise.to(zero.device)


def _flops_at(backbone: _Backbone, usable: Sequence[Attachment]) -> tuple[dict[str, int], int]:
    """FLOPs up to each submodule's end, by name, and of all."""
    found: dict[str, int] = {}
    with counted_flops() as counter:
        handles = [
            backbone.module.get_submodule(a.exit_at.at).register_forward_hook(
                lambda _module, _inputs, _output, at=a.exit_at.at: found.update(
                    {at: counter.get_total_flops()}
                )
            )
            for a in usable
        ]
        try:
            backbone.logits(backbone.samples(0))
        finally:
            for handle in handles:
                handle.remove()
        return found, counter.get_total_flops()


class _Cleanness:
    """Whether a submodule's features decide the logits, tried with two samples of noise."""

    def __init__(self, backbone: _Backbone, usable: Sequence[Attachment]) -> None:
        self._backbone = backbone
        self._one, other = backbone.samples(1), backbone.samples(2)
        self._features: dict[str, Tensors] = {}
        handles = [
            backbone.module.get_submodule(a.exit_at.at).register_forward_hook(
                # Clones, because a later layer may work in place.
                lambda _module, _inputs, output, a=a: self._features.update(
                    {a.exit_at.at: tuple(t.clone() for t in a.features.of(output))}
                )
            )
            for a in usable
        ]
        try:
            self._logits = backbone.logits(other)
        finally:
            for handle in handles:
                handle.remove()
        if torch.equal(backbone.logits(self._one), self._logits):
            raise CannotAttach("backbone", "says the same of any input; its weights are blank")

    def holds(self, attachment: Attachment) -> bool:
        at = attachment.exit_at.at
        handle = self._backbone.module.get_submodule(at).register_forward_hook(
            lambda _module, _inputs, output: attachment.features.replaced(
                output, [tensor.clone() for tensor in self._features[at]]
            )
        )
        try:
            return torch.equal(self._backbone.logits(self._one), self._logits)
        finally:
            handle.remove()


def _own_flops(attachment: Attachment) -> int:
    """FLOPs of head, gate and codec, for one sample."""
    with counted_flops() as counter:
        tensors = tuple(torch.zeros(1, *shape) for shape in attachment.features.shapes)
        for module in (attachment.head, attachment.gate):
            if module is not None:
                module.eval()(tensors[attachment.chosen])
        if attachment.codec is not None:
            codec = attachment.codec.eval()
            codec.decode(codec.levels(tensors))
        return counter.get_total_flops()


def _usable(backbone: _Backbone, like: ExitAt) -> list[Attachment]:
    """An attachment for every submodule that runs once and yields what head and codec take."""
    names = [name for name, _ in backbone.module.named_modules() if name]
    ran, classes = dry_run(backbone.module, names, backbone.prepare, backbone.takes)
    times = Counter(name for name, _ in ran)
    found = []
    for name, features in ran:
        if times[name] > 1 or not features.places:
            continue
        try:
            found.append(make_attachment(replace(like, at=name), features, classes, "placement"))
        except CannotAttach:
            continue
    return found


@torch.no_grad()
def find_candidates(
    backbone: nn.Module, like: ExitAt, *, prepare: Preparation | None, takes: TensorSpec
) -> Candidates:
    """All places where an exit like that one (its head, gate and codec) can be.

    The backbone is left in the mode it was in. Raises CannotAttach where it does not take such
    samples.
    """
    modes = {module: module.training for module in backbone.modules()}
    wrapped = _Backbone(backbone.eval(), prepare, takes)
    try:
        usable = _usable(wrapped, like)
        flops, total = _flops_at(wrapped, usable)
        clean = _Cleanness(wrapped, usable)
        places = []
        for spent, level in groupby(usable, key=lambda a: flops[a.exit_at.at]):
            if not 0 < spent < total:
                continue
            last = next(filter(clean.holds, reversed(list(level))), None)
            if last is not None:
                places.append(Candidate(attachment=last, flops=spent, own_flops=_own_flops(last)))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Candidates(places=tuple(places), flops=total)


def place_at_equal_flops(candidates: Candidates, count: int) -> tuple[Candidate, ...]:
    """`count` places that divide the FLOPs most evenly: exit k near (k + 1) / (count + 1) of them.

    Raises CannotAttach where there are fewer places.
    """
    places = candidates.places
    if len(places) < count:
        raise CannotAttach("placement.count", f"{count}, but there are {len(places)} places")
    chosen: list[Candidate] = []
    first = 0
    for k in range(count):
        target = candidates.flops * (k + 1) / (count + 1)
        room = range(first, len(places) - (count - 1 - k))
        nearest = min(room, key=lambda i: abs(places[i].flops - target))
        chosen.append(places[nearest])
        first = nearest + 1
    return tuple(chosen)
