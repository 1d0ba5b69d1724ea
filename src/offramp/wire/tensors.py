"""A tensor as bytes: little-endian and row-major, or packed where codes have under 8 bits.

Packing is most significant bit first. Both sides know dtype, shape and bits from the manifest, so
that a packed boundary carries no header: a (4, 7, 7) boundary of 4-bit codes is 98 bytes. With
tables of a coding the same codes may take fewer; then they are not the packed form, and are shorter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput
from offramp.wire.entropy import Coding

DTYPES = ("uint8", "int32", "int64", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of a boundary, per sample: its shape has no batch dimension.

    bits: of one value; codes may have fewer than uint8's 8. Raises ValueError where they do not
    fit.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape: {self.shape} has a size below 1")
        if self.bits == 0:
            object.__setattr__(self, "bits", np.dtype(self.dtype).itemsize * 8)
        whole = np.dtype(self.dtype).itemsize * 8
        if self.bits != whole and not (self.dtype == "uint8" and 1 <= self.bits <= 8):
            raise ValueError(f"bits: {self.bits} does not fit {self.dtype}")

    @cached_property
    def count(self) -> int:
        """Values per sample."""
        return math.prod(self.shape)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes on the wire, per sample; the most, where there is a coding."""
        return -(-self.count * self.bits // 8)

    @cached_property
    def is_packed(self) -> bool:
        """Whether several values share a byte."""
        return self.dtype == "uint8" and self.bits < 8

    @cached_property
    def travels_as(self) -> np.dtype[Any]:
        """Its dtype in little-endian order."""
        return np.dtype(self.dtype).newbyteorder("<")


def pack(tensor: NDArray[Any], spec: TensorSpec, coding: Coding | None = None) -> bytes:
    """The bytes of one sample's tensor: entropy-coded where there is a coding and that is shorter.

    Raises InvalidInput where dtype, shape or a code's range is not the spec's.
    """
    if tensor.dtype != spec.dtype or tensor.shape != spec.shape:
        raise InvalidInput(
            spec.name, f"{tensor.dtype} {list(tensor.shape)}, not {spec.dtype} {list(spec.shape)}"
        )
    if spec.is_packed and tensor.size and int(tensor.max()) >> spec.bits:
        raise InvalidInput(spec.name, f"a code of {tensor.max()} does not fit {spec.bits} bits")
    if coding is not None and len(coded := coding.encode(tensor)) < spec.size_bytes:
        return coded
    if spec.is_packed:
        bits = np.unpackbits(tensor.reshape(-1, 1), axis=1)[:, 8 - spec.bits :]
        return np.packbits(bits).tobytes()
    return tensor.astype(spec.travels_as, copy=False).tobytes()


def unpack(data: bytes, spec: TensorSpec, field: str, coding: Coding | None = None) -> NDArray[Any]:
    """The tensor of those bytes; a read-only view of them where nothing was packed.

    Raises InvalidInput naming `field` where the length is not the spec's, a padding bit is set, a
    value is NaN or infinite, or shorter bytes are not what the coding writes.
    """
    if coding is not None and len(data) < spec.size_bytes:
        return coding.decode(data, spec.shape, field)
    _check_size(data, spec, field)
    count = spec.count
    if spec.is_packed:
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        if bits[count * spec.bits :].any():
            raise InvalidInput(field, "its padding bits are not zero")
        codes = np.zeros((count, 8), np.uint8)
        codes[:, 8 - spec.bits :] = bits[: count * spec.bits].reshape(count, spec.bits)
        return np.packbits(codes, axis=1).reshape(spec.shape)
    return _as_they_travel(data, spec, spec.shape, field)


def join(data: Sequence[bytes], spec: TensorSpec, field: str) -> NDArray[Any]:
    """The tensors of several samples, (N, ...), of a spec that is not packed: a read-only view of their bytes joined.

    Raises InvalidInput as `unpack` does, without saying of which sample.
    """
    for one in data:
        _check_size(one, spec, field)
    return _as_they_travel(b"".join(data), spec, (len(data), *spec.shape), field)


def _check_size(data: bytes, spec: TensorSpec, field: str) -> None:
    if len(data) != spec.size_bytes:
        raise InvalidInput(
            field,
            f"{len(data)} bytes, but {spec.dtype} {list(spec.shape)} of {spec.bits} bits is "
            f"{spec.size_bytes}",
        )


def _as_they_travel(
    data: bytes, spec: TensorSpec, shape: tuple[int, ...], field: str
) -> NDArray[Any]:
    tensor = np.frombuffer(data, spec.travels_as).reshape(shape)
    if tensor.dtype.kind == "f" and not is_finite(tensor):
        raise InvalidInput(field, "holds NaN or infinite values")
    return tensor.astype(spec.dtype, copy=False)


def is_finite(tensor: NDArray[np.floating]) -> bool:
    """Whether it holds no NaN and nothing infinite."""
    # reduce() of the ufunc, for all() takes as long again to get there
    return bool(np.logical_and.reduce(np.isfinite(tensor), axis=None))
