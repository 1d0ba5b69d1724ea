"""The wire codec: a trained pair of small networks that make a boundary few bits on the wire.

    features --encoder--> levels in [0, top] --round--> uint8 codes ~wire~> --decoder--> features
     a tuple               (N, K, places)               top = 2^bits - 1                  a tuple

A boundary's tensors, one or several, become one tensor of codes, and each comes back in its own
shape. `places` are the coarsest tensor's over the stride: (H/s, W/s), or (T/s,) for tokens.

Rounding has no gradient; in training the decoder sees the rounded levels and the encoder receives
the decoder's gradient unchanged (the straight-through estimator of Bengio et al. 2013, arXiv
1308.3432).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offramp.models.codec_layers import Form, decoder, encoder

# What the quantiser spans, in standard deviations of a normal variable, at 1, 2, ... 8 bits, where
# its error is least: 2^bits - 1 steps of Max 1960, "Quantizing for minimum distortion", table II.
SPAN = (1.60, 2.99, 4.10, 5.02, 5.83, 6.55, 7.21, 7.85)
_NORMALISED_SPAN = 6.0  # and what it spans of the encoder's output, whose scale is trained


class CannotCode(ValueError):
    """A codec does not fit a boundary; `field` is its key, as in `codec.stride`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """A codec's size: K channels of `bits` bits, `stride` times narrower in space.

    hidden: channels of a deeper layer beside the linear ones of encoder and decoder; 0 for none. signed:
    whether (C, H, W) features may be negative; if not, the decoder ends in a ReLU. Tokens and
    vectors always may. target_bytes: what entropy coding is to leave of a sample's codes on
    average, which training then works towards; 0 for no matter what.
    """

    channels: int
    bits: int
    stride: int = 1
    hidden: int = 0
    signed: bool = False
    target_bytes: int = 0

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise CannotCode("codec.channels", f"{self.channels} is not at least 1")
        if not 1 <= self.bits <= 8:
            raise CannotCode("codec.bits", f"{self.bits} is not within 1 to 8")
        if self.stride < 1:
            raise CannotCode("codec.stride", f"{self.stride} is not at least 1")
        if self.hidden < 0:
            raise CannotCode("codec.hidden", f"{self.hidden} is not at least 0")
        if self.target_bytes < 0:
            raise CannotCode("codec.target_bytes", f"{self.target_bytes} is not at least 0")


class WireCodec(nn.Module):
    """Encoder, uniform quantiser and decoder around one boundary; see `build_codec`."""

    def __init__(self, forms: Sequence[Form], spec: CodecSpec) -> None:
        super().__init__()
        self.spec = spec
        self.forms = tuple(forms)
        self.encoder = encoder(forms, spec.channels, spec.hidden)
        self.decoder = decoder(forms, spec.channels, spec.hidden)
        scale = self.encoder[-1].weight
        assert isinstance(scale, Tensor)  # noqa: S101 (narrows the type)
        nn.init.constant_(scale, _NORMALISED_SPAN / SPAN[spec.bits - 1])

    @property
    def top(self) -> int:
        """The highest code, 2^bits - 1."""
        return int(2**self.spec.bits) - 1

    def levels(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """The real numbers that rounding turns into codes, in [0, top]: (N, K, places)."""
        grids = [form.grid(tensor) for form, tensor in zip(self.forms, tensors, strict=True)]
        encoded = self.encoder(grids[0] if len(grids) == 1 else grids)
        unit = (encoded / _NORMALISED_SPAN + 0.5).clamp(0.0, 1.0)
        levels: Tensor = unit.float() * self.top
        return levels

    def decode(self, codes: Tensor) -> tuple[Tensor, ...]:
        """The boundary's tensors from codes (N, K, places) of any real dtype."""
        decoded = self.decoder(codes.float() * (2.0 / self.top) - 1.0)
        grids = decoded if isinstance(decoded, list) else [decoded]
        return tuple(form.tensor(grid) for form, grid in zip(self.forms, grids, strict=True))

    def through(self, levels: Tensor) -> tuple[Tensor, ...]:
        """What the far side of the wire would see, differentiable in `levels`."""
        return self.decode(levels + (levels.round() - levels).detach())

    @staticmethod
    def quantise(levels: Tensor) -> Tensor:
        """The uint8 codes that travel: halves round to even, as ONNX's Round does."""
        return levels.round().to(torch.uint8)


def build_codec(shapes: Sequence[tuple[int, ...]], spec: CodecSpec) -> WireCodec:
    """An untrained codec for a boundary's tensors, by their shapes a sample.

    (C, H, W), or tokens (T, C) and vectors (C,); of several, the coarsest sets the places, and
    every other's sizes are a multiple of its. Raises CannotCode where they are not, where the
    stride does not divide it, or where places and tokens are mixed. Example: a (32, 16, 16)
    boundary in 7 channels of 4 bits at stride 2 is 224 bytes of codes, 7 x 8 x 8.
    """
    for shape in shapes:
        if len(shape) not in (1, 2, 3):
            raise CannotCode("codec", f"takes (C, H, W), (T, C) or (C,) a sample, not {shape}")
    if len({len(shape) == 3 for shape in shapes}) != 1:
        raise CannotCode("codec", f"cannot join {list(shapes)}: places and tokens")
    places = [shape[1:] if len(shape) == 3 else shape[:-1] or (1,) for shape in shapes]
    coarsest = min(places)
    if any(size % spec.stride for size in coarsest):
        raise CannotCode("codec.stride", f"{spec.stride} does not divide {coarsest}")
    codes = [size // spec.stride for size in coarsest]
    forms = []
    for shape, own in zip(shapes, places, strict=True):
        stride = own[0] // codes[0]
        if [size * stride for size in codes] != list(own):
            raise CannotCode("codec", f"cannot join {list(shapes)}: {own} places and {coarsest}")
        is_map = len(shape) == 3
        forms.append(
            Form(
                dimensions=len(shape),
                channels=shape[0] if is_map else shape[-1],
                stride=stride,
                signed=spec.signed or not is_map,
            )
        )
    return WireCodec(forms, spec)
