"""Samples that a bundle's network was not trained on: what calibration may use, and nothing else.

    provenance: data, hashes, seed, share --> the same split again --> the part held out
    FILE.npz: x, and y where known        --> checked against what training saw --> all of it

What training saw is `trained_on.bin` beside the manifest, where the bundle has one, and else the split that the
provenance describes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from offramp import data
from offramp.bundle import Bundle, Manifest
from offramp.data import ImageSet, reencode
from offramp.data.fingerprints import TRAINED_ON, Fingerprints, fingerprints, unpacked
from offramp.errors import InvalidBundle, InvalidInput

_BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """N samples as boundary 0 takes them, and where they come from.

    labels: (N,) or None where they are not known; rows: (N,) their places in the source; sha256: by
    file, of the source; left_out: how many of the part held out were identical to samples trained
    on; compared: False where nothing says what training saw.
    """

    name: str
    samples: NDArray[Any]
    labels: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    sha256: dict[str, str]
    left_out: int = 0
    compared: bool = True

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Unseen:
        """The same, these places only."""
        return replace(
            self,
            samples=self.samples[places],
            labels=None if self.labels is None else self.labels[places],
            rows=self.rows[places],
        )


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


class _Trained(BaseModel):
    """What of a provenance says which samples training saw. Other keys are not this module's."""

    recipe: _Recipe
    data: _Source


def _trained(manifest: Manifest) -> _Trained | None:
    try:
        return _Trained.model_validate(manifest.provenance)
    except ValidationError:
        return None


def held_out(bundle: Bundle, name: str | None = None, folder: Path | None = None) -> Unseen:
    """The part of the training data that the bundle's provenance says was held out.

    name: the data set's, which must be the one trained on; folder: where its files lie. Samples
    identical to one that training saw are left out. Raises InvalidInput where the provenance does
    not say, the backbone came trained by others, who may have used this part, the data has another
    name or hash, or samples held out were trained on all the same.
    """
    trained = _trained(bundle.manifest)
    if trained is None:
        raise InvalidInput("provenance", "does not say what was held out; give --images")
    if name not in (None, trained.recipe.data.name):
        text = (
            f"{name!r}, but the network was trained on {trained.recipe.data.name!r}; give --images"
        )
        raise InvalidInput("--data", text)
    if (weights := trained.recipe.regime.backbone_weights) is not None:
        text = f"the backbone's {weights} may have seen the part held out; give --images"
        raise InvalidInput("--data", text)
    whole, kept, rows = _split(trained, folder)
    twins = np.isin(fingerprints(whole.images[rows]), fingerprints(whole.images[kept]))
    held = _as_trained_on(trained, whole.take(rows))
    _check_fit(bundle.manifest, held.images, "--data")
    recorded = _recorded(bundle)
    if recorded is not None:
        _refuse(np.isin(fingerprints(held.images), recorded) & ~twins, rows, "--data")
    unseen = Unseen(
        name=f"{held.name}, held out",
        samples=held.images,
        labels=held.labels,
        rows=rows,
        sha256=held.sha256,
        left_out=int(twins.sum()),
    )
    return unseen.take(~twins)


def to_report_on(bundle: Bundle, folder: Path | None = None) -> Unseen:
    """The test images of the data set that the bundle's provenance names: to report on, not to fit on.

    Raises InvalidInput where it names none.
    """
    trained = _trained(bundle.manifest)
    if trained is None:
        raise InvalidInput("provenance", "does not name the data trained on")
    whole = _as_trained_on(trained, data.load(trained.recipe.data.name, "test", folder))
    return Unseen(
        name=whole.name,
        samples=whole.images,
        labels=whole.labels,
        rows=np.arange(len(whole)),
        sha256=whole.sha256,
    )


def from_file(bundle: Bundle, path: Path, folder: Path | None = None) -> Unseen:
    """The samples of an .npz file: x (N, ...) as the network takes them and, where known, y (N,).

    folder: where the training data's files lie, for a bundle that does not say by itself what was
    trained on. Raises InvalidInput for a file that cannot be read or does not fit, and for one of
    which any sample was trained on.
    """
    try:
        content = path.read_bytes()
        # From memory, for np.load leaves a broken file open.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ("x", "y")}
    except _BROKEN as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    if "x" not in found:
        raise InvalidInput(str(path), "has no array x")
    samples, labels = found["x"], found.get("y")
    _check_fit(bundle.manifest, samples, f"{path}: x")
    if labels is not None:
        labels = _checked_labels(labels, len(samples), len(bundle.manifest.network.classes), path)
    seen = _seen(bundle, folder)
    rows = np.arange(len(samples))
    if seen is not None:
        _refuse(np.isin(fingerprints(samples), seen), rows, str(path))
    return Unseen(
        name=path.name,
        samples=samples,
        labels=labels,
        rows=rows,
        sha256={path.name: hashlib.sha256(content).hexdigest()},
        compared=seen is not None,
    )


def _split(
    trained: _Trained, folder: Path | None
) -> tuple[ImageSet, NDArray[np.int64], NDArray[np.int64]]:
    """The training data, the rows trained on and the rest. Raises InvalidInput for other data."""
    about = trained.recipe.data
    whole = data.load(about.name, "train", folder)
    for file, digest in trained.data.sha256.items():
        if (found := whole.sha256.get(file)) != digest:
            text = f"{file} has the SHA-256 {found}, but the network was trained on {digest}"
            raise InvalidInput("--data", text)
    return whole, *data.hold_out(len(whole), about.held_out, trained.recipe.seed)


def _as_trained_on(trained: _Trained, images: ImageSet) -> ImageSet:
    """In the encoding that the recipe asks for."""
    encode = trained.recipe.data.encode
    return images if encode is None else reencode(images, encode.media_type, encode.quality)


def _seen(bundle: Bundle, folder: Path | None) -> Fingerprints | None:
    """Fingerprints of what was trained on; None where the bundle says nothing of it."""
    recorded, trained = _recorded(bundle), _trained(bundle.manifest)
    if recorded is not None or trained is None:
        return recorded
    try:
        whole, kept, _ = _split(trained, folder)
    except InvalidInput as exc:
        text = f"cannot be compared with what was trained on, give --folder ({exc})"
        raise InvalidInput("--images", text) from exc
    return fingerprints(_as_trained_on(trained, whole.take(kept)).images)


def _recorded(bundle: Bundle) -> Fingerprints | None:
    """The bundle's own list, if it is here. Raises InvalidBundle where it is not the provenance's."""
    about = bundle.manifest.provenance.get("data")
    digest = about.get("fingerprints") if isinstance(about, dict) else None
    path = bundle.folder / TRAINED_ON
    if digest is None or not path.exists():
        return None
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InvalidBundle(str(path), f"cannot be read: {exc.strerror}") from exc
    if hashlib.sha256(content).hexdigest() != digest:
        raise InvalidBundle(str(path), "its SHA-256 is not the one in the provenance")
    return unpacked(content, str(path))


def _refuse(overlap: NDArray[np.bool_], rows: NDArray[np.int64], field: str) -> None:
    if overlap.any():
        text = f"{overlap.sum()} of {len(overlap)} samples were trained on, the first in row {rows[overlap][0]}"
        raise InvalidInput(field, text)


def _check_fit(manifest: Manifest, samples: NDArray[Any], field: str) -> None:
    takes = manifest.network.takes
    if samples.shape[1:] != takes.shape or samples.dtype != np.dtype(takes.dtype):
        found = f"{samples.dtype} {list(samples.shape)}"
        raise InvalidInput(field, f"{found}, not {takes.dtype} of {list(takes.shape)} a sample")


def _checked_labels(
    labels: NDArray[Any], count: int, classes: int, path: Path
) -> NDArray[np.int64]:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InvalidInput(f"{path}: y", f"{labels.dtype} {list(labels.shape)} for {count} samples")
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise InvalidInput(f"{path}: y", f"holds labels outside the {classes} classes")
    return labels.astype(np.int64)
