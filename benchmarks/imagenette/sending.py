"""The alternative to features: the image itself, as JPEG or WebP, at full size or smaller.

A smaller image is scaled down by the device (Lanczos) and up again by the cloud (bicubic), which
then runs the whole network.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.imagenette.protocol import Images
from offramp.evaluation.messages import message_bytes
from offramp.rpc.payload import EncodedImage
from offramp.wire import decode_image, encode_image


class Sending(NamedTuple):
    """One way to send an image of `full` pixels a side."""

    media: str  # "jpeg" or "webp"
    side: int
    quality: int

    @property
    def name(self) -> str:
        """As files and tables call it."""
        return f"{self.media}-{self.side}-q{self.quality}"


class Sent(NamedTuple):
    """What came of N images: pixels (N, H, W, C) uint8, and bytes of each one's whole message."""

    images: NDArray[np.uint8]
    message_bytes: NDArray[np.int64]  # (N,)
    without_tables: NDArray[np.int64]  # (N,) with the JPEG's fixed tables left to the receiver


def sendings(images: Images, full: int) -> Iterator[Sending]:
    """All ways of a protocol, full size first."""
    for media in ("jpeg", "webp"):
        for quality in images.qualities:
            yield Sending(media, full, quality)
        for side in images.small_sides:
            for quality in images.small_qualities:
                yield Sending(media, side, quality)


def _resized(pixels: NDArray[np.uint8], side: int, how: Image.Resampling) -> NDArray[np.uint8]:
    if pixels.shape[0] == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


def _abbreviated(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """The JPEG without its quantisation and Huffman tables, which both sides may know.

    Source: ITU-T T.81, annex B.4, "abbreviated format for compressed image data".
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, streamtype=2)
    return file.getvalue()


def send(images: NDArray[np.uint8], sending: Sending) -> Sent:
    """Every image encoded, counted and decoded again at its full size."""
    media_type = f"image/{sending.media}"
    seen = np.empty_like(images)
    whole, abbreviated = [], []
    for row, image in enumerate(images):
        small = _resized(image, sending.side, Image.Resampling.LANCZOS)
        data = encode_image(small, media_type, quality=sending.quality)
        whole.append(message_bytes(EncodedImage(data, media_type), 0))
        if sending.media == "jpeg":
            bare = EncodedImage(_abbreviated(small, sending.quality), media_type)
            abbreviated.append(message_bytes(bare, 0))
        decoded = decode_image(data, media_type, small.shape, f"images.{row}")
        seen[row] = _resized(decoded, image.shape[0], Image.Resampling.BICUBIC)
    return Sent(seen, np.array(whole), np.array(abbreviated or whole))
