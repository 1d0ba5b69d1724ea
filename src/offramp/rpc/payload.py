"""What a sample carries: an encoded image, or its boundary's tensors, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Boundary
from offramp.errors import InvalidInput
from offramp.wire import TensorSpec, check_media_type, decode_image, join, pack, unpack


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """Boundary 0 as a PNG, JPEG or WebP file."""

    data: bytes
    media_type: str


class TensorBytes(NamedTuple):
    """A tensor as it travels; an empty dtype or a shape of None means the manifest's."""

    data: bytes
    dtype: str = ""
    shape: tuple[int, ...] | None = None


Payload = EncodedImage | tuple[TensorBytes, ...]


def payload_bytes(payload: Payload) -> int:
    """Bytes of image or tensors, without what a message puts around them."""
    if isinstance(payload, EncodedImage):
        return len(payload.data) + len(payload.media_type)
    return sum(len(tensor.data) for tensor in payload)


def payload_size_checked(payload: Payload, boundary: Boundary, index: int) -> None:
    """Pass where form, media type, dtype, shape and length are the boundary's; nothing is allocated.

    Raises InvalidInput naming the field.
    """
    if isinstance(payload, EncodedImage):
        check_media_type(payload.media_type, "payload.image")
        if index != 0:
            raise InvalidInput("payload.image", f"boundary {index} takes tensors, not an image")
        if [tensor.dtype for tensor in boundary.tensors] != ["uint8"]:
            raise InvalidInput("payload.image", "this network takes raw tensors, not an image")
        return
    if len(payload) != len(boundary.tensors):
        raise InvalidInput("payload.tensors", f"{len(payload)} of {len(boundary.tensors)} tensors")
    for k, spec in enumerate(boundary.tensors):
        _check_tensor(payload[k], spec, k, boundary.coding is not None)


def _check_tensor(tensor: TensorBytes, spec: TensorSpec, number: int, coded: bool) -> None:
    if tensor.dtype and tensor.dtype != spec.dtype:
        text = f"{tensor.dtype!r}, not {spec.dtype!r}"
        raise InvalidInput(f"payload.tensors[{number}].dtype", text)
    if tensor.shape is not None and tensor.shape != spec.shape:
        text = f"{list(tensor.shape)}, not {list(spec.shape)}"
        raise InvalidInput(f"payload.tensors[{number}].shape", text)
    size = len(tensor.data)
    if size != spec.size_bytes and not (coded and 0 < size < spec.size_bytes):
        raise InvalidInput(
            f"payload.tensors[{number}].data",
            f"{size} bytes, not the {'at most ' if coded else ''}{spec.size_bytes} of "
            f"{spec.dtype} {list(spec.shape)}",
        )


def payload_arrays(payload: Payload, boundary: Boundary) -> tuple[NDArray[np.generic], ...]:
    """The boundary's tensors, per sample, decoded and checked. Raises InvalidInput naming the field."""
    if isinstance(payload, EncodedImage):
        shape = boundary.tensors[0].shape
        return (decode_image(payload.data, payload.media_type, shape, "payload.image"),)
    return tuple(
        [
            unpack(tensor.data, spec, f"payload.tensors[{k}].data", boundary.coding)
            for k, (tensor, spec) in enumerate(zip(payload, boundary.tensors, strict=True))
        ]
    )


def joined_arrays(
    payloads: Sequence[Payload], boundary: Boundary
) -> tuple[NDArray[np.generic], ...] | None:
    """The boundary's tensors of several samples, (N, ...) each, checked; None where any has to be decoded by itself.

    Raises InvalidInput naming the field, but not the sample.
    """
    as_they_are = [payload for payload in payloads if not isinstance(payload, EncodedImage)]
    if len(as_they_are) < len(payloads) or boundary.is_packed:
        return None
    columns = zip(*as_they_are, strict=True)
    return tuple(
        [
            join([tensor.data for tensor in column], spec, f"payload.tensors[{k}].data")
            for k, (column, spec) in enumerate(zip(columns, boundary.tensors, strict=True))
        ]
    )


def tensors_payload(
    arrays: Sequence[NDArray[np.generic]], boundary: Boundary
) -> tuple[TensorBytes, ...]:
    """The payload of a boundary's tensors, per sample. Raises InvalidInput where one does not fit its spec."""
    return tuple(
        [
            TensorBytes(pack(array, spec, boundary.coding))
            for array, spec in zip(arrays, boundary.tensors, strict=True)
        ]
    )
