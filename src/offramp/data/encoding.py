"""A data set as it is after its images went through a lossy image format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.data.images import ImageSet
from offramp.errors import InvalidInput
from offramp.wire import decode_image, encode_image


def reencode(images: ImageSet, media_type: str, quality: int) -> ImageSet:
    """The same set, every image encoded and decoded: what a server sees that is sent such images.

    media_type: `image/jpeg` or `image/webp`; quality: 1 to 95. Raises InvalidInput naming the field
    where the images are neither grey nor RGB.
    """
    if images.image_shape[2] not in (1, 3):
        raise InvalidInput(
            "data.encode", f"images of {images.image_shape[2]} channels have no such encoding"
        )
    seen = np.empty_like(images.images)
    for row, image in enumerate(images.images):
        data = encode_image(image, media_type, quality=quality)
        seen[row] = decode_image(data, media_type, image.shape, f"images.{row}")
    return replace(images, images=seen)
