"""A payload of one of several boundaries: its tensors, of the dtype and shape that the manifest says, or InvalidInput.

The first byte says which boundary; an image follows as it is, tensors as bytes that are cut in as many parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from offramp.bundle import Boundary, Codec
from offramp.errors import InvalidInput
from offramp.rpc.payload import (
    EncodedImage,
    Payload,
    TensorBytes,
    payload_arrays,
    payload_size_checked,
    tensors_payload,
)
from offramp.wire import Coding, TensorSpec, encode_image, pack

MESSAGE, BETWEEN, MOST_BYTES = None, b"", 2048
DICTIONARY = (
    "IHDR",
    "IDAT",
    "IEND",
    "PLTE",
    "tRNS",
    "VP8X",
    "VP8L",
    "ALPH",
    "ANIM",
    "\\xff\\xd8",
    "\\xff\\xda",
)
_KINDS = ("image/png", "image/jpeg", "image/webp")


def _boundary(*tensors: TensorSpec, coding: Coding | None = None) -> Boundary:
    codec = None if coding is None else Codec(channels=2, bits=2, stride=1)
    return Boundary(tensors=tensors, codec=codec, coding=coding)


def _spec(dtype: str, *shape: int, bits: int = 0) -> TensorSpec:
    return TensorSpec(name=f"{dtype}-{shape}", dtype=dtype, shape=shape, bits=bits)


_IMAGES = [_boundary(_spec("uint8", 8, 8, 3)), _boundary(_spec("uint8", 8, 8, 1))]
_TABLES = Coding(((4000, 90, 5, 1), (1024, 1024, 1024, 1024)))
_BOUNDARIES = [
    _boundary(_spec("uint8", 2, 4, 4, bits=2), coding=_TABLES),
    _boundary(_spec("uint8", 7, bits=3)),
    _boundary(_spec("float32", 3, 2), _spec("float16", 4)),
    _boundary(_spec("int64", 2), _spec("int32", 1), _spec("uint8", 5)),
]
_WAYS = [(kind, boundary) for kind in _KINDS for boundary in _IMAGES]


def seeds() -> list[bytes]:
    """One payload of each, some in several forms."""
    chance = np.random.default_rng(1)
    made = []
    for k, (kind, boundary) in enumerate(_WAYS):
        image = chance.integers(0, 256, boundary.tensors[0].shape, np.uint8)
        made += [bytes([k]) + encode_image(one, kind) for one in (image, np.zeros_like(image))]
    for k, boundary in enumerate(_BOUNDARIES, len(_WAYS)):
        zeros = [np.zeros(one.shape, one.dtype) for one in boundary.tensors]
        made.append(bytes([k]) + b"".join(t.data for t in tensors_payload(zeros, boundary)))
    codes = _BOUNDARIES[0].tensors[0]
    many = chance.choice(4, codes.shape, p=[0.9, 0.08, 0.01, 0.01]).astype(np.uint8)
    made += [bytes([len(_WAYS)]) + pack(many, codes, coding) for coding in (None, _TABLES)]
    return made


def _payload(data: bytes) -> tuple[Payload, Boundary]:
    which = data[0] % (len(_WAYS) + len(_BOUNDARIES))
    if which < len(_WAYS):
        kind, boundary = _WAYS[which]
        return EncodedImage(data[1:], kind), boundary
    boundary, rest, parts = _BOUNDARIES[which - len(_WAYS)], data[1:], []
    for spec in boundary.tensors[:-1]:
        parts.append(TensorBytes(rest[: spec.size_bytes]))
        rest = rest[spec.size_bytes :]
    return (*parts, TensorBytes(rest)), boundary


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """What a tier does with a payload."""

    def decode(data: bytes) -> None:
        payload, boundary = _payload(data or b"\0")
        try:
            payload_size_checked(payload, boundary, 0)
            arrays = payload_arrays(payload, boundary)
        except InvalidInput:
            return
        for array, spec in zip(arrays, boundary.tensors, strict=True):
            if (array.dtype, array.shape) != (np.dtype(spec.dtype), spec.shape):
                raise AssertionError(f"{array.dtype} {array.shape} of {spec}")
        if isinstance(payload, tuple):
            again = payload_arrays(tensors_payload(arrays, boundary), boundary)
            if any(a.tobytes() != b.tobytes() for a, b in zip(arrays, again, strict=True)):
                raise AssertionError("another tensor comes back")

    yield decode
