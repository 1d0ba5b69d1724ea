"""Bytes of tensors and images, checked before anything is allocated. Pure; needs Pillow."""

from offramp.wire.entropy import Coding
from offramp.wire.images import check_media_type, decode_image, encode_image, prepare_decoding
from offramp.wire.tensors import TensorSpec, is_finite, join, pack, unpack

__all__ = [
    "Coding",
    "TensorSpec",
    "check_media_type",
    "decode_image",
    "encode_image",
    "is_finite",
    "join",
    "pack",
    "prepare_decoding",
    "unpack",
]
