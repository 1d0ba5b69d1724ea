"""Data sets as arrays of uint8 images and labels, each checked against a hash; needs no torch."""

from pathlib import Path
from typing import Literal

from offramp.data import cifar10, fashion_mnist, imagenette
from offramp.data.encoding import reencode
from offramp.data.images import WITH_OPTIONS, ImageSet, hold_out
from offramp.data.tensors import TensorSet
from offramp.errors import InvalidInput

SampleSet = ImageSet | TensorSet
Split = Literal["train", "test"]
NAMES = (
    "fashion-mnist",
    "cifar10",
    "cifar10-jpeg",
    "cifar10-lossless",
    "imagenette",
    "imagenette-unseen",
)


def load(name: str, split: Split, folder: Path | None = None) -> ImageSet:
    """The data set called `name`, one of NAMES.

    folder: where its files lie; Fashion-MNIST finds its own.
    """
    if name == "fashion-mnist":
        return fashion_mnist.load(split, folder)
    if name not in NAMES:
        raise InvalidInput("data.name", f"{name!r} is none of {', '.join(NAMES)}")
    if folder is None:
        raise InvalidInput("data.folder", f"say where the files of {name} lie, {WITH_OPTIONS}")
    if name == "cifar10":
        return cifar10.load(split, folder)
    if name == "imagenette":
        return imagenette.load(split, folder)
    if name == "imagenette-unseen":
        return imagenette.load_unseen(split, folder)
    return cifar10.load_copy("jpeg" if name == "cifar10-jpeg" else "lossless", split, folder)


__all__ = [
    "NAMES",
    "ImageSet",
    "SampleSet",
    "Split",
    "TensorSet",
    "hold_out",
    "load",
    "reencode",
]
