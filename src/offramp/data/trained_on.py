"""What a bundle's network was trained on: the data and split that its provenance names, and fingerprints.

manifest: provenance --> Trained: data, hashes, seed, share --> the same split again
trained_on.bin, checked against the provenance, or else that split --> fingerprints of what training saw
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from offramp import data
from offramp.bundle import Bundle, Manifest
from offramp.data import ImageSet, reencode
from offramp.data.fingerprints import QUANTISED_ON, TRAINED_ON, Fingerprints, fingerprints, unpacked
from offramp.errors import InvalidBundle, InvalidInput
from offramp.exits.certificate import Compared


class _Encode(BaseModel):
    media_type: str
    quality: int


class _Data(BaseModel):
    name: str
    held_out: float
    encode: _Encode | None = None


class _Regime(BaseModel):
    backbone_weights: str | None = None


class _Recipe(BaseModel):
    seed: int
    data: _Data
    regime: _Regime = _Regime()


class _Source(BaseModel):
    sha256: dict[str, str]


class Trained(BaseModel):
    """What of a provenance says which samples training saw. Other keys are not this module's."""

    recipe: _Recipe
    data: _Source


def trained_by(manifest: Manifest) -> Trained | None:
    """What the provenance says; None where it does not say what was trained on."""
    try:
        return Trained.model_validate(manifest.provenance)
    except ValidationError:
        return None


def split_of(
    trained: Trained, folder: Path | None
) -> tuple[ImageSet, NDArray[np.int64], NDArray[np.int64]]:
    """The training data, the rows trained on and the rest. Raises InvalidInput for other data."""
    about = trained.recipe.data
    whole = data.load(about.name, "train", folder)
    for file, digest in trained.data.sha256.items():
        if (found := whole.sha256.get(file)) != digest:
            text = f"{file} has the SHA-256 {found}, but the network was trained on {digest}"
            raise InvalidInput("--data", text)
    return whole, *data.hold_out(len(whole), about.held_out, trained.recipe.seed)


def as_trained_on(trained: Trained, images: ImageSet) -> ImageSet:
    """In the encoding that the recipe asks for."""
    encode = trained.recipe.data.encode
    return images if encode is None else reencode(images, encode.media_type, encode.quality)


def seen_by(bundle: Bundle, folder: Path | None) -> tuple[Fingerprints, Compared]:
    """Fingerprints of what was trained on, and where they are from; none where the bundle does not say."""
    listed, trained = listed_by(bundle), trained_by(bundle.manifest)
    if listed is not None:
        return listed, TRAINED_ON
    if trained is None:
        return np.zeros(0, np.uint64), "not checked"
    try:
        whole, kept, _ = split_of(trained, folder)
    except InvalidInput as exc:
        text = f"cannot be compared with what was trained on, give --folder ({exc})"
        raise InvalidInput("--images", text) from exc
    seen = fingerprints(as_trained_on(trained, whole.take(kept)).images)
    return seen, "split of the provenance"


def listed_by(bundle: Bundle) -> Fingerprints | None:
    """The bundle's own list, if it is here. Raises InvalidBundle where it is not the provenance's."""
    about = bundle.manifest.provenance.get("data")
    digest = about.get("fingerprints") if isinstance(about, dict) else None
    path = bundle.folder / TRAINED_ON
    return _listed(path, str(digest)) if digest is not None and path.exists() else None


def quantised_by(bundle: Bundle) -> Fingerprints:
    """What decided how the stages are computed in int8; nothing where they are not.

    Raises InvalidBundle where its list is not here, or is not the provenance's.
    """
    about = bundle.manifest.provenance.get("quantisation")
    if about is None:
        return np.zeros(0, np.uint64)
    try:
        digest = str(about["data"]["fingerprints"])
    except (KeyError, TypeError) as exc:
        text = "does not say what decided it, so that no sample is known to be unseen"
        raise InvalidBundle("provenance.quantisation", text) from exc
    return _listed(bundle.folder / QUANTISED_ON, digest)


def _listed(path: Path, digest: str) -> Fingerprints:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InvalidBundle(str(path), f"cannot be read: {exc.strerror}") from exc
    if hashlib.sha256(content).hexdigest() != digest:
        raise InvalidBundle(str(path), "its SHA-256 is not the one in the provenance")
    return unpacked(content, str(path))
