"""Imagenette at 224x224 from tar archives of JPEG files, decoded in memory and never unpacked.

Imagenette (Howard 2019, github.com/fastai/imagenette) is ten classes of ImageNet with a split of
its own, in which most validation images come from ImageNet's training set. A network pretrained on
ImageNet has seen those; it has not seen the files called ILSVRC2012_val_*, which both archives hold.

    imagenette224_train.tar --+--> ILSVRC2012_val_* ----> test of `load_unseen`
                              +--> all others ----------> train of `load_unseen`
    imagenette224_test.tar ------> ILSVRC2012_val_* ----> test of `load_unseen`
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from offramp.data.images import ImageSet
from offramp.errors import InvalidInput
from offramp.wire import decode_image

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Names by WordNet id, the folder that an image lies in; a label is the position here."""

SHAPE = (224, 224, 3)
_UNSEEN = "ILSVRC2012_val_"
_LABELS = {wordnet: label for label, wordnet in enumerate(CLASSES)}


class _Member(NamedTuple):
    """One image of an archive."""

    jpeg: bytes
    label: int
    field: str


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc.strerror}") from exc


def _members(content: bytes, path: Path, wanted: Callable[[str], bool]) -> list[_Member]:
    """The images whose file name is wanted, in the archive's order.

    Raises InvalidInput naming the archive that is broken, or the image that is of no known class.
    """
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for info in tar:
                member = PurePosixPath(info.name)
                file = tar.extractfile(info) if wanted(member.name) else None
                if file is None:
                    continue
                field = f"{path}: {info.name}"
                if member.parent.name not in _LABELS:
                    raise InvalidInput(field, f"lies in none of the folders {', '.join(_LABELS)}")
                found.append(_Member(file.read(), _LABELS[member.parent.name], field))
    except (OSError, EOFError, tarfile.TarError) as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    if not found:
        raise InvalidInput(str(path), "holds none of the wanted images")
    return found


def _image_set(name: str, parts: Sequence[tuple[Path, Callable[[str], bool]]]) -> ImageSet:
    """The wanted images of each archive, decoded one by one into one array."""
    members, sha256 = [], {}
    for path, wanted in parts:
        content = _content(path)
        sha256[path.name] = hashlib.sha256(content).hexdigest()
        members += _members(content, path, wanted)
    # 1.4 GB for the training images: room is taken once, for stacking would take it twice.
    images = np.empty((len(members), *SHAPE), np.uint8)
    for row, member in enumerate(members):
        images[row] = decode_image(member.jpeg, "image/jpeg", SHAPE, member.field)
    labels = np.array([member.label for member in members], np.int64)
    return ImageSet(
        name=name, images=images, labels=labels, classes=tuple(CLASSES.values()), sha256=sha256
    )


def _path(split: Literal["train", "test"], folder: Path) -> Path:
    return folder / f"imagenette224_{split}.tar"


def _is_unseen(name: str) -> bool:
    return name.startswith(_UNSEEN)


def load(split: Literal["train", "test"], folder: Path) -> ImageSet:
    """All images of `imagenette224_{split}.tar` in `folder`, (N, 224, 224, 3).

    Raises InvalidInput naming the archive, or the file in it, that is missing or broken.
    """
    return _image_set(f"Imagenette 224 {split}", [(_path(split, folder), lambda _name: True)])


def load_unseen(split: Literal["train", "test"], folder: Path) -> ImageSet:
    """The split for networks that were pretrained on ImageNet, (N, 224, 224, 3).

    test: the ILSVRC2012_val_* files of both archives, which such a network has not seen; train: the
    training archive without them. Raises InvalidInput as `load` does.
    """
    train = _path("train", folder)
    if split == "train":
        return _image_set("Imagenette 224, seen: train", [(train, lambda n: not _is_unseen(n))])
    parts = [(train, _is_unseen), (_path("test", folder), _is_unseen)]
    return _image_set("Imagenette 224, unseen: ILSVRC2012_val", parts)
