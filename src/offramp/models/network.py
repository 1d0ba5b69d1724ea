"""A network with exits, and what one pass through it yields.

The backbone is not rewritten: a forward hook at each named submodule hands its output to a head
and, where the boundary after that exit has a codec, replaces it by what the far side of the wire
would see. So the backbone's own weights load unchanged, and its own output is the last exit.

    input -> [prepare] -> ... submodule -> [codec] -> ... submodule -> [codec] -> ... -> logits[-1]
                                  \\-> head -> logits[0]      \\-> head -> logits[1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from offramp.errors import InvalidInput
from offramp.models.codec import CodecSpec, WireCodec
from offramp.models.features import Features, Tensors, logits_of
from offramp.models.heads import ExitHead, HeadSpec
from offramp.wire import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAt:
    """One exit: the submodule that feeds it, its head, its gate and the codec behind it (if any).

    tensor: which of several feature tensors feeds the head, by default the coarsest. gate: whether
    a trained gate says beside the head if a sample should leave.
    """

    at: str
    head: HeadSpec = HeadSpec()
    codec: CodecSpec | None = None
    tensor: int | None = None
    gate: bool = False


class ExitOutputs(NamedTuple):
    """What one pass yields, by exit and by boundary 1 .. E - 1."""

    logits: tuple[Tensor, ...]  # E times (N, classes)
    features: tuple[Tensors, ...]  # E - 1 times what the submodule yields, before any codec
    levels: tuple[Tensor | None, ...]  # E - 1 times: before rounding; None without a codec
    codes: tuple[Tensor | None, ...]  # E - 1 times uint8; None without a codec and in training
    decoded: tuple[Tensors | None, ...]  # E - 1 times the features that come of the codes
    gates: tuple[Tensor | None, ...]  # E - 1 times logits (N,); None without a gate


class Preparation(nn.Module):
    """uint8 images (N, H, W, C) -> normalised float32 (N, C, H, W).

    Mean and std are per channel, of values in [0, 1]. Raises InvalidInput where they cannot be.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise InvalidInput("prepare.std", f"{len(std)} beside a mean of {len(mean)} channels")
        if not all(0 <= value <= 1 for value in mean):
            raise InvalidInput("prepare.mean", f"{list(mean)} is not of pixels in [0, 1]")
        if not all(0 < value <= 1 for value in std):
            raise InvalidInput("prepare.std", f"{list(std)} is not above 0, of pixels in [0, 1]")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255.0)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise."""
        channels_first = images.permute(0, 3, 1, 2)
        # Contiguous in memory too, because a backbone may call view() on what comes of it.
        pixels = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
        return (pixels - self.mean) / self.std


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An exit with its parts built: `features` are the submodule's, `chosen` feeds the head."""

    exit_at: ExitAt
    features: Features
    chosen: int
    head: ExitHead
    gate: ExitHead | None
    codec: WireCodec | None


@dataclass(slots=True)
class _Pass:
    """What the hooks of one forward pass collect."""

    given: Mapping[int, Tensor | Tensors] = field(default_factory=dict)
    until: int | None = None
    logits: list[Tensor] = field(default_factory=list)
    features: list[Tensors] = field(default_factory=list)
    levels: list[Tensor | None] = field(default_factory=list)
    codes: list[Tensor | None] = field(default_factory=list)
    decoded: list[Tensors | None] = field(default_factory=list)
    gates: list[Tensor | None] = field(default_factory=list)

    def outputs(self) -> ExitOutputs:
        """What has been collected."""
        return ExitOutputs(
            tuple(self.logits),
            tuple(self.features),
            tuple(self.levels),
            tuple(self.codes),
            tuple(self.decoded),
            tuple(self.gates),
        )


class _Reached(Exception):
    """Ends a pass at the exit that it was to go to."""


class ExitNetwork(nn.Module):
    """A backbone with exits. Not for concurrent use: hooks write to the pass under way.

    Outside of a pass they do nothing, so that the backbone can still be run by itself, or with
    other exits.
    """

    def __init__(
        self,
        backbone: nn.Module,
        attachments: Sequence[Attachment],
        prepare: Preparation | None,
        takes: TensorSpec,
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.backbone = backbone
        self.heads = nn.ModuleList(a.head for a in attachments)
        self.codecs = nn.ModuleDict(
            {str(k): a.codec for k, a in enumerate(attachments, 1) if a.codec is not None}
        )
        self.gates = nn.ModuleDict(
            {str(k): a.gate for k, a in enumerate(attachments) if a.gate is not None}
        )
        self.exits = tuple(a.exit_at for a in attachments)
        self.takes = takes
        self._taps = tuple((a.features, a.chosen) for a in attachments)
        self._pass: _Pass | None = None
        for exit_at in self.exits:
            backbone.get_submodule(exit_at.at).register_forward_hook(self._tap)

    @property
    def exit_count(self) -> int:
        """Exits, the backbone's own head included."""
        return len(self.exits) + 1

    def codec(self, boundary: int) -> WireCodec | None:
        """The codec at boundary 1 .. E - 1, None where there is none."""
        key = str(boundary)
        found = self.codecs[key] if key in self.codecs else None  # noqa: SIM401 (no dict)
        assert found is None or isinstance(found, WireCodec)  # noqa: S101 (narrows the type)
        return found

    def gate(self, exit_index: int) -> ExitHead | None:
        """The gate of an early exit, None where there is none."""
        key = str(exit_index)
        found = self.gates[key] if key in self.gates else None  # noqa: SIM401 (no dict)
        assert found is None or isinstance(found, ExitHead)  # noqa: S101 (narrows the type)
        return found

    def sample(self, count: int = 1) -> Tensor:
        """Inputs of the form that the network takes, all zero: (count, ...), on its device."""
        return blank(self.takes, count, self)

    def _tap(self, _module: nn.Module, _inputs: object, output: Any) -> Any:
        under_way = self._pass
        if under_way is None:
            return output
        k = len(under_way.logits)  # hooks fire in the order of the backbone's own execution
        features, chosen = self._taps[k]
        tensors = features.of(output)
        gate = self.gate(k)
        under_way.logits.append(self.heads[k](tensors[chosen]))
        under_way.gates.append(None if gate is None else gate(tensors[chosen])[:, 0])
        under_way.features.append(tensors)
        if k == under_way.until:
            for collected in (under_way.levels, under_way.codes, under_way.decoded):
                collected.append(None)
            raise _Reached
        behind = self._cross(under_way, k + 1, tensors)
        if behind is None and features.overwritten:
            # What head and outputs hold stays as it was, for the backward pass too.
            behind = tuple(tensor.clone() for tensor in tensors)
        return output if behind is None else features.replaced(output, behind)

    def _cross(self, under_way: _Pass, boundary: int, tensors: Tensors) -> Tensors | None:
        """What the layers behind a boundary go on from, None for the tensors as they are."""
        codec = self.codec(boundary)
        given = under_way.given.get(boundary)
        levels = codes = decoded = None
        if codec is not None:
            levels = codec.levels(tensors)
            codes = None if self.training else codec.quantise(levels)
            sent = codes if given is None else given
            decoded = codec.through(levels) if sent is None else codec.decode(_one(sent))
        elif given is not None:
            decoded = (given,) if isinstance(given, Tensor) else given
        under_way.levels.append(levels)
        under_way.codes.append(codes)
        under_way.decoded.append(decoded)
        return decoded

    def forward(
        self, inputs: Tensor, given: Mapping[int, Tensor | Tensors] | None = None
    ) -> ExitOutputs:
        """All exits of uint8 images (N, H, W, C), or of raw tensors where nothing is prepared.

        given: codes (or, without a codec, features) by boundary, to go on from in place of the
        computed ones; with it a stage can be compared on equal inputs.
        """
        under_way = _Pass(given=given or {})
        logits = logits_of(self._run(inputs, under_way))
        assert isinstance(logits, Tensor)  # noqa: S101 (narrows the type; `attach` saw one)
        under_way.logits.append(logits)
        return under_way.outputs()

    def _run(self, inputs: Tensor, under_way: _Pass) -> object:
        """The backbone's output; `under_way` then holds what its hooks collected."""
        self._pass = under_way
        try:
            return self.backbone(inputs if self.prepare is None else self.prepare(inputs))
        finally:
            self._pass = None

    def until(self, exit_index: int, inputs: Tensor) -> ExitOutputs:
        """The outputs up to an early exit; nothing behind it is computed, nor a codec there."""
        under_way = _Pass(until=exit_index)
        try:
            self._run(inputs, under_way)
        except _Reached:
            return under_way.outputs()
        raise IndexError(f"exit {exit_index} is not among the {len(self.exits)} early ones")


def _one(codes: Tensor | Tensors) -> Tensor:
    return codes if isinstance(codes, Tensor) else codes[0]


def blank(takes: TensorSpec, count: int, module: nn.Module) -> Tensor:
    """Inputs of that form, all zero, where the module's parameters lie: (count, ...)."""
    first = next(module.parameters(), None)
    device = None if first is None else first.device
    return torch.zeros((count, *takes.shape), dtype=getattr(torch, takes.dtype), device=device)
