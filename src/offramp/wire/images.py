"""An image as bytes: PNG, JPEG or WebP, decoded only after its header agrees with the manifest.

Pillow reads the header of a PNG or JPEG when it opens it, and allocates pixels when they are asked
for. Its WebP plugin makes the decoder, with room for the whole canvas, when it opens the file; so
WebP's size is read here, before Pillow sees the bytes.

Pillow is imported when the first image comes, or at prepare_decoding(): a tier that is sent tensors does without it,
and 3 MB less.
"""

from __future__ import annotations

import io
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

MEDIA_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
_MODES = {1: "L", 3: "RGB"}
# Pillow's modes of grey, palette and RGB. Others (16-bit grey, CMYK, ...) would be clipped or guessed.
_ACCEPTED = ("1", "L", "LA", "P", "RGB", "RGBA")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) as a WebP's first chunk says; ValueError where there is none.

    Source: RFC 9649, sections 2.7 (VP8X) and 3.4 (VP8L); RFC 6386, section 9.1 (VP8).
    """
    form, kind, chunk = data[:4] + data[8:12], data[12:16], data[20:30]
    if form == b"RIFFWEBP" and len(chunk) == 10:
        if kind == b"VP8X":
            width, height = (int.from_bytes(chunk[k : k + 3], "little") for k in (4, 7))
            return width + 1, height + 1
        if kind == b"VP8L" and chunk[0] == 0x2F:
            bits = int.from_bytes(chunk[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 " and chunk[3:6] == b"\x9d\x01\x2a":
            width, height = (int.from_bytes(chunk[k : k + 2], "little") for k in (6, 8))
            return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no WebP header")


def check_media_type(media_type: str, field: str) -> None:
    """Pass where it is one that is decoded here. Raises InvalidInput naming `field`."""
    if media_type not in MEDIA_TYPES:
        text = f"{media_type[:64]!r} is none of {', '.join(MEDIA_TYPES)}"
        raise InvalidInput(f"{field}.media_type", text)


def prepare_decoding() -> None:
    """Have the decoders at hand, so that the first image need not wait for them."""
    from PIL import Image

    Image.preinit()  # PNG and JPEG among them
    import_module("PIL.WebPImagePlugin")


def _open(data: bytes, media_type: str) -> Image:
    """The picture with its header read and its pixels not yet."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=[MEDIA_TYPES[media_type]])


def _size(data: bytes, media_type: str) -> tuple[int, int]:
    return _webp_size(data) if media_type == "image/webp" else _open(data, media_type).size


def decode_image(
    data: bytes, media_type: str, shape: tuple[int, ...], field: str
) -> NDArray[np.uint8]:
    """The (H, W, C) uint8 pixels of an encoded image, converted to grey (C = 1) or RGB (C = 3).

    An alpha channel is dropped, whatever it hides. Raises InvalidInput naming `field` where the
    media type is unknown, the image is of another size than `shape` (seen from its header, before
    pixels are allocated), neither grey, RGB nor a palette of 8 bits, truncated or otherwise broken.
    """
    check_media_type(media_type, field)
    if len(shape) != 3 or shape[2] not in _MODES:
        raise InvalidInput(
            field, f"an image cannot be the tensor {list(shape)} that this network takes"
        )
    height, width, channels = shape
    try:
        found = _size(data, media_type)
        if found != (width, height):
            raise InvalidInput(
                field, f"an image of {found[0]}x{found[1]} pixels, not {width}x{height}"
            )
        image = _open(data, media_type)
        if image.mode not in _ACCEPTED:
            raise InvalidInput(
                field, f"an image of mode {image.mode!r}, not one of {', '.join(_ACCEPTED)}"
            )
        image.verify()  # a PNG's checksums and end, which decoding alone does not look at
        image = _open(data, media_type)  # for verify() leaves nothing to decode
        image.info.pop("transparency", None)  # alpha of a palette or one colour, dropped too
        return np.asarray(image.convert(_MODES[channels])).reshape(shape)
    except InvalidInput:
        raise
    # Pillow's decoders raise SyntaxError, ValueError, EOFError and IndexError beside OSError on broken files. Whatever
    # it is, it is this image's fault, and not that of others in its batch.
    except Exception as exc:
        raise InvalidInput(field, f"is no readable {MEDIA_TYPES[media_type]} image") from exc


def encode_image(pixels: NDArray[np.uint8], media_type: str, *, quality: int = 75) -> bytes:
    """The encoded bytes of (H, W, C) uint8 pixels; `quality` is for JPEG and WebP, 1 to 95."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if media_type == "image/png":
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, MEDIA_TYPES[media_type], quality=quality)
    return file.getvalue()
