"""What training saw, from the run through the bundle to the calibration that it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from offramp.bundle import load_bundle
from offramp.cli import main
from offramp.data import ImageSet
from offramp.data.fingerprints import TRAINED_ON, write_fingerprints
from offramp.data.unseen import from_file, held_out
from offramp.errors import InvalidInput
from offramp.export.bundle import Exporting, write_bundle
from offramp.models import ExitAt, ExitNetwork, HeadSpec, Preparation, attach
from offramp.wire import TensorSpec


def test_a_run_lists_what_it_was_trained_on_and_its_bundle_refuses_that(
    recipe_file: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = tmp_path / "run", tmp_path / "bundle"
    data = ["--data", str(small_data)]
    assert main(["train", str(recipe_file), "--out", str(run), *data]) == 0
    assert main(["export", str(run), "--out", str(folder), *data]) == 0
    assert (run / TRAINED_ON).read_bytes() == (folder / TRAINED_ON).read_bytes()
    assert (folder / TRAINED_ON).stat().st_size == 6 * 320  # 80 % of 400
    bundle = load_bundle(folder)
    unseen = held_out(bundle, folder=small_data)
    with np.load(small_data / "cifar10_lossless_train.npz") as arrays:
        images = arrays["x"]
    seen = np.setdiff1d(np.arange(400), unseen.rows)
    assert len(unseen) == 80
    np.savez(tmp_path / "mine.npz", x=images[seen[:5]])
    with pytest.raises(InvalidInput, match="5 of 5 samples were trained on, the first in row 0"):
        from_file(bundle, tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", x=images[unseen.rows])
    assert from_file(bundle, tmp_path / "mine.npz").compared == unseen.compared == TRAINED_ON
    flags = ["--folder", str(small_data), "--max-cost", "100%", "--out", str(tmp_path / "new")]
    capsys.readouterr()
    assert main(["calibrate", str(folder), *flags]) in (0, 1)
    assert "budget_met=" in capsys.readouterr().out
    assert load_bundle(tmp_path / "new").manifest.policy("budget") is not None
    shutil.rmtree(run)


def images_of(count: int, seed: int) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    labels = (images.mean((1, 2, 3)) > images.mean()).astype(np.int64)
    return ImageSet(name="mine", images=images, labels=labels, classes=("dark", "light"), sha256={})


@pytest.fixture
def network() -> ExitNetwork:
    torch.manual_seed(2)
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    return attach(
        torch.nn.Sequential(*layers),
        [ExitAt(at="0", head=HeadSpec(kind="pool"))],
        prepare=Preparation([0.5], [0.25]),
        takes=TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1)),
    ).eval()


def test_a_bundle_exported_from_python_refuses_what_it_says_was_trained_on(
    network: ExitNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, held, others = images_of(400, 1), images_of(120, 2), images_of(600, 3)
    write_fingerprints(tmp_path / "seen.bin", kept.images)
    exporting = Exporting(name="mine", trained_on=tmp_path / "seen.bin")
    bundle = write_bundle(network, tmp_path / "bundle", held, exporting)
    assert bundle.manifest.provenance.keys() == {"data", "export"}
    mixed = np.concatenate([others.images, kept.images[:3]])
    files = {"train": kept.images, "mixed": mixed, "held": others.images}
    for name, images in files.items():
        labels = np.zeros(len(images), np.int64)
        np.savez(tmp_path / f"{name}.npz", x=images, y=labels)
    command = ["calibrate", str(bundle.folder), "--risk", "disagreement", "--max-drop", "0.9"]
    assert main([*command, "--images", str(tmp_path / "train.npz")]) == 2
    assert "train.npz: 400 of 400 samples were trained on" in capsys.readouterr().err
    assert main([*command, "--images", str(tmp_path / "mixed.npz")]) == 2
    assert "mixed.npz: 3 of 603 samples were trained on" in capsys.readouterr().err
    assert main([*command, "--images", str(tmp_path / "held.npz")]) == 0
    assert "not checked" not in capsys.readouterr().out
    (certificate,) = load_bundle(bundle.folder).manifest.certificates
    assert certificate.compared_with_training == TRAINED_ON


def empty(path: Path) -> dict[str, Any]:
    path.write_bytes(b"")
    return {}


def broken(path: Path) -> dict[str, Any]:
    path.write_bytes(b"12345")
    return {}


def another(path: Path) -> dict[str, Any]:
    path.write_bytes(b"123456")
    return {"data": {"fingerprints": 64 * "0"}}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: {}, "cannot be read: No such file or directory"),
        (empty, "lists no sample"),
        (broken, "5 bytes are no whole number of fingerprints"),
        (another, "its SHA-256 is not provenance.data.fingerprints"),
    ],
    ids=["missing", "empty", "broken", "another"],
)
def test_a_list_that_says_nothing_of_what_was_trained_on_is_refused(
    make: Callable[[Path], dict[str, Any]], said: str, network: ExitNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "seen.bin"
    exporting = Exporting(name="mine", provenance=make(path), trained_on=path)
    with pytest.raises(InvalidInput) as caught:
        write_bundle(network, tmp_path / "bundle", images_of(120, 2), exporting)
    assert str(caught.value) == f"trained_on: {path}: {said}"
    assert not (tmp_path / "bundle").exists()
