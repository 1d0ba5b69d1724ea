"""An image as bytes: PNG, JPEG or WebP, opened only after its header agrees with the manifest."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.errors import InvalidInput

MEDIA_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
_MODES = {1: "L", 3: "RGB"}


def _open(data: bytes, media_type: str) -> Image.Image:
    """The picture with its header read and its pixels not yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=[MEDIA_TYPES[media_type]])


def decode_image(
    data: bytes, media_type: str, shape: tuple[int, ...], field: str
) -> NDArray[np.uint8]:
    """The (H, W, C) uint8 pixels of an encoded image, converted to grey (C = 1) or RGB (C = 3).

    Raises InvalidInput naming `field` where the media type is unknown, the image is of another size
    than `shape` (seen from its header, before pixels are allocated), truncated or otherwise broken.
    """
    if media_type not in MEDIA_TYPES:
        raise InvalidInput(
            f"{field}.media_type", f"{media_type!r} is none of {', '.join(MEDIA_TYPES)}"
        )
    if len(shape) != 3 or shape[2] not in _MODES:
        raise InvalidInput(
            field, f"an image cannot be the tensor {list(shape)} that this network takes"
        )
    height, width, channels = shape
    try:
        image = _open(data, media_type)
        if image.size != (width, height):
            raise InvalidInput(
                field, f"an image of {image.width}x{image.height} pixels, not {width}x{height}"
            )
        image.verify()  # a PNG's checksums and end, which decoding alone does not look at
        image = _open(data, media_type)  # for verify() leaves nothing to decode
        pixels = np.asarray(image.convert(_MODES[channels]))
    # Pillow's decoders raise SyntaxError, ValueError and EOFError beside OSError on broken files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as exc:
        raise InvalidInput(field, f"is no readable {MEDIA_TYPES[media_type]} image") from exc
    return pixels.reshape(shape)


def encode_image(pixels: NDArray[np.uint8], media_type: str, *, quality: int = 75) -> bytes:
    """The encoded bytes of (H, W, C) uint8 pixels; `quality` is for JPEG and WebP, 1 to 95."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if media_type == "image/png":
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, MEDIA_TYPES[media_type], quality=quality)
    return file.getvalue()
