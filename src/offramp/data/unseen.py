"""Samples that a bundle's network was not trained on: what calibration may use, and nothing else.

    provenance: data, hashes, seed, share --> the same split again --> the part held out
    FILE.npz: x, and y where known        --> checked against what training saw --> all of it

What training saw is `offramp.data.trained_on`'s to say. Copies are left out and counted: a sample that is there twice
is no second, independent one, and both a certificate and an interval are of independent samples.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp import data
from offramp.bundle import Bundle, Manifest
from offramp.data.fingerprints import TRAINED_ON, fingerprints
from offramp.data.images import hold_out
from offramp.data.trained_on import (
    as_trained_on,
    listed_by,
    quantised_by,
    seen_by,
    split_of,
    trained_by,
)
from offramp.errors import InvalidBundle, InvalidInput
from offramp.exits.certificate import Certificate, Compared

FIT_SHARE, SPLIT_SEED = 0.5, 1  # of a split, unless another is asked for
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06")  # the second: one that holds nothing
_BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


class Parts(NamedTuple):
    """Places among samples: those to fit on, those to check on."""

    fit: NDArray[np.int64]
    check: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """N samples as boundary 0 takes them, and where they come from.

    labels: (N,) or None where they are not known; rows: (N,) their places in the source; sha256: by
    file, of the source; left_out: how many were identical to samples trained on or to an earlier
    one of their own; compared: what showed that none of them was trained on; decided: (N,) which of
    them decided how the stages are computed in int8, None of a network that is not.
    """

    name: str
    samples: NDArray[Any]
    labels: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    sha256: dict[str, str]
    left_out: int = 0
    compared: Compared = "not checked"
    decided: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Unseen:
        """The same, these places only."""
        return replace(
            self,
            samples=self.samples[places],
            labels=None if self.labels is None else self.labels[places],
            rows=self.rows[places],
            decided=None if self.decided is None else self.decided[places],
        )

    def split(self, fit_share: float = FIT_SHARE, seed: int = SPLIT_SEED) -> Parts:
        """Places among the samples, sorted and drawn apart by a seed: those to fit on, those to check on.

        What decided the network's own numbers cannot check it, and is to fit on whatever the seed.
        """
        check, fit = hold_out(len(self), fit_share, seed)
        if self.decided is None:
            return Parts(fit, check)
        decided = self.decided[check]
        return Parts(np.sort(np.concatenate([fit, check[decided]])), check[~decided])

    def without_copies(self) -> Unseen:
        """The first of every sample."""
        _, first = np.unique(fingerprints(self.samples), return_index=True)
        copies = len(self) - len(first)
        return replace(self.take(np.sort(first)), left_out=self.left_out + copies)


def held_out(bundle: Bundle, name: str | None = None, folder: Path | None = None) -> Unseen:
    """The part of the training data that the bundle's provenance says was held out.

    name: the data set's, which must be the one trained on; folder: where its files lie. Samples
    identical to one that training saw are left out. Raises InvalidInput where the provenance does
    not say, the backbone came trained by others, who may have used this part, the data has another
    name or hash, or samples held out were trained on all the same.
    """
    trained = trained_by(bundle.manifest)
    if trained is None:
        raise InvalidInput("provenance", "does not say what was held out")
    if name not in (None, trained.recipe.data.name):
        text = (
            f"{name!r}, but the network was trained on {trained.recipe.data.name!r}; give --images"
        )
        raise InvalidInput("--data", text)
    if (weights := trained.recipe.regime.backbone_weights) is not None:
        text = f"the backbone's {weights} may have seen the part held out"
        raise InvalidInput("provenance", text)
    whole, kept, rows = split_of(trained, folder)
    twins = np.isin(fingerprints(whole.images[rows]), fingerprints(whole.images[kept]))
    held = as_trained_on(trained, whole.take(rows))
    _check_fit(bundle.manifest, held.images, "--data")
    listed = listed_by(bundle)
    if listed is not None:
        _refuse(np.isin(fingerprints(held.images), listed) & ~twins, rows, "--data")
    unseen = Unseen(
        name=f"{held.name}, held out",
        samples=held.images,
        labels=held.labels,
        rows=rows,
        sha256=held.sha256,
        left_out=int(twins.sum()),
        compared="split of the provenance" if listed is None else TRAINED_ON,
        decided=_decided(bundle, held.images),
    )
    return unseen.take(~twins).without_copies()


def compare(bundle: Bundle, samples: NDArray[Any], folder: Path | None = None) -> Compared:
    """What shows that training saw none of a data set's test samples (N, ...); nothing where its data is not here.

    folder: as in `from_file`. Raises InvalidInput where any was trained on.
    """
    try:
        seen, compared = seen_by(bundle, folder)
    except InvalidBundle:
        raise
    except InvalidInput:
        return "not checked"
    _refuse(np.isin(fingerprints(samples), seen), np.arange(len(samples)), "--data")
    return compared


def was_made_on(certificate: Certificate, reported: Unseen, held: Unseen | None) -> bool:
    """Whether samples reported on made this certificate, so that they are no independent check of it.

    held: the part of the training data held out, where it is here. A certificate of that part is
    known by its samples, one of a file by the file's hash; the same samples in a file of another
    hash are not found.
    """
    if held is not None and held.sha256 == certificate.data:
        return bool(np.isin(fingerprints(reported.samples), fingerprints(held.samples)).any())
    return not set(certificate.data.values()).isdisjoint(reported.sha256.values())


def to_report_on(bundle: Bundle, folder: Path | None = None) -> Unseen:
    """The test images of the data set that the bundle's provenance names: to report on, not to fit on.

    Raises InvalidInput where it names none.
    """
    trained = trained_by(bundle.manifest)
    if trained is None:
        raise InvalidInput("provenance", "does not name the data trained on")
    whole = as_trained_on(trained, data.load(trained.recipe.data.name, "test", folder))
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
        if not content.startswith(_ARCHIVES):
            raise InvalidInput(str(path), "is no .npz file of arrays x and, where known, y")
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
    seen, compared = seen_by(bundle, folder)
    rows = np.arange(len(samples))
    _refuse(np.isin(fingerprints(samples), seen), rows, str(path))
    unseen = Unseen(
        name=path.name,
        samples=samples,
        labels=labels,
        rows=rows,
        sha256={path.name: hashlib.sha256(content).hexdigest()},
        compared=compared,
        decided=_decided(bundle, samples),
    )
    return unseen.without_copies()


def _decided(bundle: Bundle, samples: NDArray[Any]) -> NDArray[np.bool_] | None:
    seen = quantised_by(bundle)
    return np.isin(fingerprints(samples), seen) if len(seen) else None


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
