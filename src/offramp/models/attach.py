"""Exits attached to any network, at submodules named as `named_modules()` names them.

The backbone is not rewritten: a forward hook at each named submodule hands its output to a head
and, where the boundary after that exit has a codec, replaces it by what the far side of the wire
would see. So the backbone's own weights load unchanged, and its own output is the last exit.

    images -> [prepare] -> ... submodule -> [codec] -> ... submodule -> [codec] -> ... -> logits[-1]
                                   \\-> head -> logits[0]      \\-> head -> logits[1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from offramp.models.codec import CodecSpec, WireCodec
from offramp.models.heads import ExitHead, HeadSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAt:
    """One exit: the submodule that feeds it, its head, and the codec behind it (if any)."""

    at: str
    head: HeadSpec = HeadSpec()
    codec: CodecSpec | None = None


class CannotAttach(ValueError):
    """An exit does not fit the network; `field` is its key as a recipe writes it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class ExitOutputs(NamedTuple):
    """What one pass yields: logits of every exit; features, levels and codes of every boundary."""

    logits: tuple[Tensor, ...]  # E times (N, classes)
    features: tuple[Tensor, ...]  # E - 1 times: the output of the submodule, before any codec
    levels: tuple[Tensor | None, ...]  # E - 1 times: before rounding; None without a codec
    codes: tuple[Tensor | None, ...]  # E - 1 times uint8; None without a codec and in training


class Preparation(nn.Module):
    """uint8 images (N, H, W, C) -> normalised float32 (N, C, H, W).

    Mean and std are per channel, of values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255.0)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise."""
        channels_first = images.permute(0, 3, 1, 2)
        # Contiguous in memory too, because a backbone may call view() on what comes of it.
        pixels = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
        return (pixels - self.mean) / self.std


@dataclass(slots=True)
class _Pass:
    """What the hooks of one forward pass collect."""

    given: Mapping[int, Tensor]
    logits: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    levels: list[Tensor | None] = field(default_factory=list)
    codes: list[Tensor | None] = field(default_factory=list)


class ExitNetwork(nn.Module):
    """A backbone with exits. Not for concurrent use: hooks write to the pass under way."""

    def __init__(
        self,
        backbone: nn.Module,
        exits: Sequence[ExitAt],
        heads: Sequence[ExitHead],
        codecs: Mapping[int, WireCodec],
        prepare: Preparation,
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.codecs = nn.ModuleDict({str(k): codec for k, codec in codecs.items()})
        self.exits = tuple(exits)
        self._pass = _Pass(given={})
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

    def _tap(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        under_way = self._pass
        k = len(under_way.logits)  # hooks fire in the order of the backbone's own execution
        under_way.logits.append(self.heads[k](output))
        under_way.features.append(output)
        codec = self.codec(k + 1)
        given = under_way.given.get(k + 1)
        if codec is None:
            under_way.levels.append(None)
            under_way.codes.append(None)
            return output if given is None else given
        levels = codec.levels(output)
        under_way.levels.append(levels)
        if self.training:
            under_way.codes.append(None)
            return codec.through(levels)
        codes = codec.quantise(levels)
        under_way.codes.append(codes)
        return codec.decode(codes if given is None else given)

    def forward(self, images: Tensor, given: Mapping[int, Tensor] | None = None) -> ExitOutputs:
        """All exits of uint8 images (N, H, W, C).

        given: codes (or, without a codec, features) by boundary, to go on from in place of the
        computed ones; with it a stage can be compared on equal inputs.
        """
        self._pass = under_way = _Pass(given=given or {})
        under_way.logits.append(self.backbone(self.prepare(images)))
        return ExitOutputs(
            tuple(under_way.logits),
            tuple(under_way.features),
            tuple(under_way.levels),
            tuple(under_way.codes),
        )


def _shape_per_sample(features: object, at: str, field: str) -> tuple[int, ...]:
    """What the dry run's one sample has at a submodule: (C, H, W), (T, C) or (C,)."""
    if not isinstance(features, Tensor) or features.ndim not in (2, 3, 4) or len(features) != 1:
        raise CannotAttach(
            field, f"{at!r} does not yield one tensor of (N, C, H, W), (N, T, C) or (N, C)"
        )
    return tuple(features.shape[1:])


def _head(shape: tuple[int, ...], classes: int, exit_at: ExitAt, field: str) -> ExitHead:
    try:
        return ExitHead(shape, classes, exit_at.head)
    except ValueError as exc:
        raise CannotAttach(f"{field}.head", f"of {exit_at.at!r}: {exc}") from exc


def _codec(shape: tuple[int, ...], spec: CodecSpec, at: str, field: str) -> WireCodec:
    if len(shape) != 3:
        raise CannotAttach(field, f"takes (C, H, W) features, but {at!r} yields {shape} a sample")
    if any(size % spec.stride for size in shape[1:]):
        raise CannotAttach(
            f"{field}.stride", f"{spec.stride} does not divide the {shape[1:]} features of {at!r}"
        )
    return WireCodec(shape[0], spec)


def attach(
    backbone: nn.Module,
    exits: Sequence[ExitAt],
    *,
    prepare: Preparation,
    image_shape: tuple[int, int, int],
) -> ExitNetwork:
    """The backbone with heads and codecs at the named submodules, in the order in which they run.

    image_shape: (H, W, C). A dry run on one black image finds each head's width and the number of
    classes. A submodule may yield (N, C, H, W), which is what a codec needs, tokens (N, T, C) or
    vectors (N, C). Raises CannotAttach, a ValueError that names the submodule, where it does not
    exist, does not run exactly once and in the order given, yields anything but one such tensor, or
    one that its head or codec cannot take. Example:

        attach(network, [ExitAt(at="layer1", codec=CodecSpec(channels=8, bits=4))], ...)
    """
    ran: list[tuple[str, object]] = []
    for k, exit_at in enumerate(exits):
        if exit_at.at not in dict(backbone.named_modules()):
            raise CannotAttach(f"exits.{k}.at", f"the network has no submodule {exit_at.at!r}")
    handles = [
        backbone.get_submodule(exit_at.at).register_forward_hook(
            lambda _module, _inputs, output, at=exit_at.at: ran.append((at, output))
        )
        for exit_at in exits
    ]
    was_training = backbone.training
    with torch.no_grad():
        logits = backbone.eval()(prepare(torch.zeros((1, *image_shape), dtype=torch.uint8)))
    backbone.train(was_training)
    for handle in handles:
        handle.remove()

    wanted, order = [exit_at.at for exit_at in exits], [at for at, _ in ran]
    if order != wanted:
        raise CannotAttach("exits.at", f"given as {wanted}, but one pass runs {order}")
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise CannotAttach("backbone", "its output is not one (N, classes) tensor")
    heads, codecs = [], {}
    for k, (exit_at, (_, features)) in enumerate(zip(exits, ran, strict=True)):
        field = f"exits.{k}"
        shape = _shape_per_sample(features, exit_at.at, f"{field}.at")
        heads.append(_head(shape, logits.shape[1], exit_at, field))
        if exit_at.codec is not None:
            codecs[k + 1] = _codec(shape, exit_at.codec, exit_at.at, f"{field}.codec")
    return ExitNetwork(backbone, exits, heads, codecs, prepare)
