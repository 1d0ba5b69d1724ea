"""A bundle with a provenance, the data that it names, and the verb run on it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.calibration.made import COUNT, HELD, Calibrate, images_of
from tests.serving import toy
from tests.test_bundle import edit_manifest

from offramp.cli import main


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data in the form of a CIFAR-10 copy, of which no two images are alike."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = images_of(COUNT, 1)
    np.savez(folder / "cifar10_lossless_train.npz", x=images, y=labels)
    return folder


@pytest.fixture(scope="module")
def trained_bundle(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "scores" with a provenance as `offramp train` writes it. Not to be changed."""
    folder = toy.scores_bundle(tmp_path_factory.mktemp("bundles") / "scores")
    file = data_folder / "cifar10_lossless_train.npz"
    provenance = {
        "recipe": {"seed": 4, "data": {"name": "cifar10-lossless", "held_out": HELD}},
        "data": {"sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}},
    }
    edit_manifest(folder, lambda manifest: manifest.update(provenance=provenance))
    return folder


@pytest.fixture
def bundle(trained_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(trained_bundle, tmp_path / "bundle"))


@pytest.fixture
def calibrate(bundle: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]) -> Calibrate:
    """Runs the verb on `bundle`; its exit code, and its JSON or else what it said on stderr."""

    def call(*flags: str) -> tuple[int, Any]:
        folder = ["--folder", str(data_folder), "--cost", "bytes", "--json"]
        code = main(["calibrate", str(bundle), *folder, *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else err

    return call
