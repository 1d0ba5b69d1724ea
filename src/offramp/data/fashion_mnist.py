"""Fashion-MNIST from its IDX files: Debian's package, any folder, or a checked download.

The package is dataset-fashion-mnist. Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; MIT licence.
The hashes are of the uncompressed files, because the distributions differ in their gzip headers.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offramp.data.images import WITH_OPTIONS, ImageSet
from offramp.errors import InvalidInput

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SOURCE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def parse_idx(content: bytes, field: str) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes.

    The header is two zero bytes, the type 8, the rank, and big-endian sizes. Raises InvalidInput
    naming `field` where it or the length is wrong.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InvalidInput(field, "not an IDX file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise InvalidInput(field, "ends within its header")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InvalidInput(field, f"{len(content) - start} bytes of data for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _decompress(compressed: bytes, field: str, sha256: str) -> bytes:
    """The content of a .gz file. Raises InvalidInput naming `field` where it has another hash."""
    try:
        content = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as exc:
        raise InvalidInput(field, f"cannot be read: {exc}") from exc
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InvalidInput(field, "its content is not Fashion-MNIST's: wrong SHA-256")
    return content


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    path = folder / f"{name}.gz"
    try:
        compressed = path.read_bytes()
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc.strerror}") from exc
    return parse_idx(_decompress(compressed, str(path), SHA256[name]), str(path))


def download(folder: Path, sha256: Mapping[str, str], source: str = SOURCE) -> None:
    """`folder` then holds the files that `sha256` names; those that it lacked were fetched.

    sha256: of the uncompressed content, by name without `.gz`. A file is checked before it gets its
    name, so an interruption leaves none that is broken. Raises InvalidInput naming the address that
    cannot be fetched or yields something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in sha256.items():
        path, url = folder / f"{name}.gz", f"{source}/{name}.gz"
        if path.exists():
            continue
        try:
            with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 (our own source)
                compressed = response.read()
        except (OSError, http.client.HTTPException) as exc:
            message = f"cannot be fetched ({exc}); say where the files lie, {WITH_OPTIONS}"
            raise InvalidInput(url, message) from exc
        _decompress(compressed, url, digest)
        temporary = folder / f".{name}.gz.{os.getpid()}"
        temporary.write_bytes(compressed)
        temporary.replace(path)


def load(split: Literal["train", "test"], folder: Path | None = None) -> ImageSet:
    """The 60,000 training or 10,000 test images, (N, 28, 28, 1).

    folder: where the split's two .gz files lie; by default Debian's package, or else a download into
    ~/.cache/offramp. Raises InvalidInput naming the file that is missing or is not what it should
    be.
    """
    prefix = "train" if split == "train" else "t10k"
    files = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    if folder is None:
        folder = DEBIAN
        if not folder.exists():
            folder = Path.home() / ".cache" / "offramp" / "fashion-mnist"
            download(folder, {name: SHA256[name] for name in files})
    images, labels = (_read(folder, name) for name in files)
    return ImageSet(
        name=f"Fashion-MNIST {split}",
        images=images[..., np.newaxis],
        labels=labels.astype(np.int64),
        classes=CLASSES,
        sha256={name: SHA256[name] for name in files},
    )
