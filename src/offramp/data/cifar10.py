"""CIFAR-10 from the official binary files, or from .npz copies (see `load_copy`).

Krizhevsky 2009, "Learning multiple layers of features from tiny images". The binary version is
read, not the Python one: that one is pickled, and nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.images import ImageSet
from offramp.errors import InvalidInput

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ARCHIVE = "cifar-10-binary.tar.gz"  # https://www.cs.toronto.edu/~kriz/cifar.html
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published on that page
SHA256 = {  # of the copies, by name
    "cifar10_jpeg_train.npz": "f795244e2e9093eb453dbfca8526b905948258746d0a99c1328252fdabfba79b",
    "cifar10_jpeg_test.npz": "bb7298c2a079801f747d0e977f8f8061ec22ddf2b1261139597a13ead2074ec7",
    "cifar10_lossless_train.npz": "02c54f5210cfc597f40edd7a30551e25ca05739f546495158bff6beaf5b906ef",
    "cifar10_lossless_test.npz": "93ff9701b0bded1fe5725959ae8bb8d2b430d593b69f302962da08a8a0388a7d",
}
# How a broken .npz shows, in zip, zlib or NumPy, and a broken JPEG in it, in Pillow.
_BROKEN = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    SyntaxError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
_RECORD = 1 + 3 * 32 * 32
_MEMBERS = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}


def parse_records(content: bytes, field: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels (N,) of one binary batch.

    A record is a label byte, then 1,024 bytes of each colour. Raises InvalidInput naming `field`.
    """
    if not content or len(content) % _RECORD:
        raise InvalidInput(
            field, f"{len(content)} bytes are no whole number of {_RECORD}-byte records"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _members(archive: bytes, names: Sequence[str], field: str) -> Iterator[tuple[str, bytes]]:
    """Files of a .tar.gz by name. Raises InvalidInput naming `field` where it lacks one."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for name in names:
                file = tar.extractfile(name)
                if file is None:
                    raise InvalidInput(field, f"its {name} is no file")
                yield name, file.read()
    except KeyError as exc:
        raise InvalidInput(field, f"lacks {name}") from exc
    except (OSError, EOFError, tarfile.TarError, zlib.error) as exc:
        raise InvalidInput(field, f"cannot be read: {exc}") from exc


def load(split: Literal["train", "test"], folder: Path, *, md5: str = ARCHIVE_MD5) -> ImageSet:
    """The 50,000 training or 10,000 test images, (N, 32, 32, 3).

    folder: where the official archive lies; md5: what it must have. Raises InvalidInput naming the
    file that is missing or is not what it should be.
    """
    path = folder / ARCHIVE
    try:
        archive = path.read_bytes()
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    if hashlib.md5(archive, usedforsecurity=False).hexdigest() != md5:
        raise InvalidInput(str(path), "is not the published archive: wrong MD5")
    parts = [
        parse_records(content, f"{path}: {member}")
        for member, content in _members(archive, _MEMBERS[split], str(path))
    ]
    return ImageSet(
        name=f"CIFAR-10 {split}",
        images=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
        classes=CLASSES,
        sha256={ARCHIVE: hashlib.sha256(archive).hexdigest()},
    )


def load_copy(
    kind: Literal["jpeg", "lossless"], split: Literal["train", "test"], folder: Path
) -> ImageSet:
    """A partial copy, `cifar10_{kind}_{split}.npz`.

    It holds JPEG files end to end (`blob`, `offset`) or arrays (`x`). The JPEG copy (quality 75) is
    not CIFAR-10 proper: train and test on the same copy, and keep its figures apart from published
    ones. Raises InvalidInput naming the file that is missing, broken or not the one of SHA256.
    """
    path = folder / f"cifar10_{kind}_{split}.npz"
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        # From memory, for np.load leaves a broken file open.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            labels = arrays["y"].astype(np.int64)
            if kind == "lossless":
                images = arrays["x"]
            else:
                blob, offset = arrays["blob"].tobytes(), arrays["offset"]
                files = (blob[a:b] for a, b in pairwise(offset))
                images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    except _BROKEN as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    if SHA256.get(path.name, digest) != digest:
        raise InvalidInput(str(path), "is not the copy that results are of: wrong SHA-256")
    return ImageSet(
        name=f"CIFAR-10 ({'JPEG q75' if kind == 'jpeg' else 'lossless'} copy) {split}",
        images=images,
        labels=labels,
        classes=CLASSES,
        sha256={path.name: digest},
    )
