"""Exits attached to any network, at submodules named as `named_modules()` names them.

Two dry runs on blank inputs, of different batch sizes, show what each submodule yields, in which
order they run and which tensors follow the batch; heads and codecs are made to these measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from offramp.models.codec import CannotCode, CodecSpec, WireCodec, build_codec
from offramp.models.features import Features, Shape, Yielded, find_features, logits_of
from offramp.models.heads import ExitHead, HeadSpec
from offramp.models.network import Attachment, ExitAt, ExitNetwork, Preparation, blank
from offramp.wire import TensorSpec

_BATCHES = (2, 3)  # of the dry runs: what is first in both, 2 and then 3, is the batch


class CannotAttach(ValueError):
    """An exit does not fit the network; `field` is its key as a recipe writes it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


def _not_there(backbone: nn.Module, at: str) -> str:
    names = [name for name, _ in backbone.named_modules() if name]
    near = get_close_matches(at, names, n=4, cutoff=0.5)
    of = near or [name for name, _ in backbone.named_children()]
    said = "near names are" if near else "at the top it has"
    return f"the network has no submodule {at!r}; {said} {', '.join(map(repr, of))}"


def check_names(backbone: nn.Module, wanted: Sequence[str]) -> None:
    """Pass where there are submodules of the names that exits are to be at. Raises CannotAttach, with near names."""
    names = dict(backbone.named_modules())
    for k, at in enumerate(wanted):
        if at not in names:
            raise CannotAttach(f"exits.{k}.at", _not_there(backbone, at))


class _Recorder:
    """Forward hooks that note, in order, what submodules yield."""

    def __init__(self, backbone: nn.Module, names: Sequence[str]) -> None:
        self.ran: list[Yielded] = []
        self._handles = [
            backbone.get_submodule(name).register_forward_hook(self._noting(name)) for name in names
        ]

    def _noting(self, name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: self.ran.append(Yielded(name, output))

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def _classes(outputs: Sequence[object]) -> int:
    """How many classes the logits of the dry runs have."""
    shapes = [tuple(logits.shape) if isinstance(logits, Tensor) else () for logits in outputs]
    classes = shapes[0][-1] if shapes[0] else 0
    if shapes != [(batch, classes) for batch in _BATCHES]:
        raise CannotAttach("backbone", "its output is not one (N, classes) tensor")
    return classes


def dry_run(
    backbone: nn.Module, names: Sequence[str], prepare: Preparation | None, takes: TensorSpec
) -> tuple[list[tuple[str, Features]], int]:
    """What the named submodules yield on blank inputs, in the order in which they run; the classes.

    The backbone is left in the mode it was in. Raises CannotAttach where it does not take such an
    input or its output is no logits.
    """
    modes = {module: module.training for module in backbone.modules()}
    recorder = _Recorder(backbone.eval(), names)
    outputs = []
    try:
        with torch.no_grad():
            for batch in _BATCHES:
                inputs = blank(takes, batch, backbone)
                outputs.append(logits_of(backbone(inputs if prepare is None else prepare(inputs))))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AssertionError,
        AttributeError,
    ) as exc:
        takes_said = f"{takes.dtype} {list(takes.shape)}"
        first_line = str(exc).strip().partition("\n")[0]
        raise CannotAttach("backbone", f"fails on {takes_said} a sample: {first_line}") from exc
    finally:
        recorder.close()
        for module, mode in modes.items():
            module.training = mode
    half, odd = divmod(len(recorder.ran), len(_BATCHES))
    if odd:
        raise CannotAttach("backbone", "what it runs depends on the batch size")
    found = []
    for first, second in zip(recorder.ran[:half], recorder.ran[half:], strict=True):
        of_batches = dict(zip(_BATCHES, (first.output, second.output), strict=True))
        found.append((first.at, find_features(of_batches, overwritten=first.overwritten)))
    return found, _classes(outputs)


def _chosen(features: Features, exit_at: ExitAt, field: str) -> int:
    if not features.places:
        raise CannotAttach(
            f"{field}.at",
            f"{exit_at.at!r} does not yield features, batch first: (N, C, H, W), (N, T, C), (N, C)",
        )
    if exit_at.tensor is None:
        return features.coarsest
    count = len(features.places)
    if not -count <= exit_at.tensor < count:
        raise CannotAttach(
            f"{field}.tensor", f"{exit_at.tensor}, but {exit_at.at!r} yields {count} tensors"
        )
    return exit_at.tensor


def _head(shape: Shape, outputs: int, spec: HeadSpec, at: str, field: str) -> ExitHead:
    try:
        return ExitHead(shape, outputs, spec)
    except ValueError as exc:
        raise CannotAttach(f"{field}.head", f"of {at!r}: {exc}") from exc


def _codec(shapes: Sequence[Shape], spec: CodecSpec, at: str, field: str) -> WireCodec:
    try:
        return build_codec(shapes, spec)
    except CannotCode as exc:
        key = exc.field.removeprefix("codec")
        raise CannotAttach(f"{field}.codec{key}", f"of {at!r}: {exc.message}") from exc


def make_attachment(exit_at: ExitAt, features: Features, classes: int, field: str) -> Attachment:
    """Head, gate and codec of an exit, made to the features; `field` names it in errors.

    Raises CannotAttach where they do not take such features.
    """
    chosen, at = _chosen(features, exit_at, field), exit_at.at
    shape = features.shapes[chosen]
    return Attachment(
        exit_at=exit_at,
        features=features,
        chosen=chosen,
        head=_head(shape, classes, exit_at.head, at, field),
        gate=_head(shape, 1, HeadSpec(kind="pool"), at, field) if exit_at.gate else None,
        codec=_codec(features.shapes, exit_at.codec, at, field) if exit_at.codec else None,
    )


def attach(
    backbone: nn.Module,
    exits: Sequence[ExitAt],
    *,
    prepare: Preparation | None,
    takes: TensorSpec,
) -> ExitNetwork:
    """The backbone with heads and codecs at the named submodules, in the order in which they run.

    takes: one sample's input: a uint8 image (H, W, C), which `prepare` makes the backbone's, or with
    `prepare` None the raw tensor itself. A submodule may yield (N, C, H, W), tokens (N, T, C) or
    vectors (N, C), one or several of them (see `offramp.models.features`). Raises CannotAttach, a
    ValueError that names the submodule, where it does not exist (with near names), has an exit
    already, does not run exactly once and in the order given, yields no features, or such as its head or codec cannot
    take. Example:

        image = TensorSpec(name="image", dtype="uint8", shape=(32, 32, 3))
        exits = [ExitAt(at="layer1", codec=CodecSpec(channels=8, bits=4))]
        attach(network, exits, prepare=Preparation([0.5] * 3, [0.25] * 3), takes=image)
    """
    if prepare is not None and (takes.dtype != "uint8" or len(takes.shape) != 3):
        raise CannotAttach("takes", "an input to be prepared is a uint8 image (H, W, C)")
    wanted = [exit_at.at for exit_at in exits]
    check_names(backbone, wanted)
    for k, at in enumerate(wanted):
        if at in wanted[:k]:
            raise CannotAttach(f"exits.{k}.at", f"{at!r} has exit {wanted.index(at)} already")
    ran, classes = dry_run(backbone, wanted, prepare, takes)
    order = [at for at, _ in ran]
    if order != wanted:
        raise CannotAttach("exits.at", f"given as {wanted}, but one pass runs {order}")
    attachments = [
        make_attachment(exit_at, features, classes, f"exits.{k}")
        for k, (exit_at, (_, features)) in enumerate(zip(exits, ran, strict=True))
    ]
    return ExitNetwork(backbone, attachments, prepare, takes)
