"""What a caller may ask about: an array, an encoded image, or a file that holds one of the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput
from offramp.rpc import EncodedImage, Payload, TensorBytes
from offramp.wire.images import MEDIA_TYPES

Image = NDArray[Any] | EncodedImage | Path | str
_ARRAY = ".npy"
_MEDIA_TYPES = {f".{kind.lower()}": media_type for media_type, kind in MEDIA_TYPES.items()}
_MEDIA_TYPES[".jpg"] = _MEDIA_TYPES[".jpeg"]


def payload_of(image: Image) -> Payload:
    """The payload of one sample: pixels (H, W, C) uint8 or a raw tensor, an encoded image, or the file at a path.

    The tier checks dtype and shape. Raises InvalidInput for anything else, and where the file cannot be read or is of
    no known kind.
    """
    if isinstance(image, EncodedImage):
        return image
    if isinstance(image, (Path, str)):
        return _read(Path(image))
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        kind = getattr(image, "dtype", type(image).__name__)
        raise InvalidInput("image", f"{kind} is no array of numbers, no path and no EncodedImage")
    numbers = np.asarray(image, image.dtype.newbyteorder("<"))
    return (TensorBytes(numbers.tobytes(), str(numbers.dtype), numbers.shape),)


def _read(path: Path) -> Payload:
    suffix = path.suffix.lower()
    if suffix != _ARRAY and suffix not in _MEDIA_TYPES:
        raise InvalidInput(str(path), f"is none of {', '.join((*_MEDIA_TYPES, _ARRAY))}")
    try:
        if suffix == _ARRAY:
            return payload_of(_array(path))
        return EncodedImage(path.read_bytes(), _MEDIA_TYPES[suffix])
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise InvalidInput(repr(str(path)), f"is no path: {exc}") from exc


def _array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, which is one sample. Raises InvalidInput naming the file where it holds none."""
    try:
        # A map looks at the file's length before it believes the shape in its header.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as exc:  # NumPy reads the header as Python, and fails in as many ways
        raise InvalidInput(str(path), "holds no NumPy array of numbers") from exc
    if array.dtype.kind not in "biuf":
        raise InvalidInput(str(path), f"holds {array.dtype}, not numbers")
    return array
