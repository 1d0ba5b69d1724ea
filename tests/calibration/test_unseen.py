"""Samples that training saw are found, however they are given; files that do not fit are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.calibration.made import BOUND, COUNT, Calibrate, images_of, one_line
from tests.serving import toy
from tests.test_bundle import edit_manifest

from offramp.bundle import Bundle, load_bundle
from offramp.cli import main
from offramp.data.fingerprints import TRAINED_ON, fingerprints, packed, unpacked
from offramp.data.unseen import compare, from_file, held_out
from offramp.errors import InvalidBundle, InvalidInput


def test_data_with_another_hash_is_refused(
    calibrate: Calibrate, bundle: Path, tmp_path: Path
) -> None:
    images, labels = images_of(COUNT, 9)
    np.savez(tmp_path / "cifar10_lossless_train.npz", x=images, y=labels)
    code, said = calibrate(*BOUND, "--folder", str(tmp_path))
    assert code == 2
    assert "--data: cifar10_lossless_train.npz has the SHA-256" in one_line(said)


def test_another_data_set_is_refused(calibrate: Calibrate) -> None:
    code, said = calibrate(*BOUND, "--data", "cifar10-jpeg")
    assert code == 2
    assert "but the network was trained on 'cifar10-lossless'; give --images" in one_line(said)


def test_samples_that_training_saw_are_refused_with_how_many_and_the_first(
    calibrate: Calibrate, tmp_path: Path, data_folder: Path, bundle: Path
) -> None:
    images, labels = images_of(500, 6)
    unseen = held_out(load_bundle(bundle), folder=data_folder)
    with np.load(data_folder / "cifar10_lossless_train.npz") as arrays:
        kept = np.setdiff1d(np.arange(COUNT), unseen.rows)
        images[[7, 90, 400]] = arrays["x"][kept[:3]]
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    code, said = calibrate(*BOUND, "--images", str(tmp_path / "mine.npz"))
    assert code == 2
    assert "3 of 500 samples were trained on, the first in row 7" in one_line(said)


def with_list(bundle: Path, samples: np.ndarray) -> Bundle:
    """The bundle, with a list of what was trained on beside its manifest."""
    content = packed(fingerprints(samples))
    (bundle / TRAINED_ON).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(bundle, lambda m: m["provenance"]["data"].update(fingerprints=digest))
    return load_bundle(bundle)


def test_a_bundle_that_lists_what_was_trained_on_needs_no_data_to_compare(
    bundle: Path, tmp_path: Path
) -> None:
    images, _ = images_of(100, 8)
    listed = with_list(bundle, images[:40])
    np.savez(tmp_path / "mine.npz", x=images)
    with pytest.raises(InvalidInput, match="40 of 100 samples were trained on, the first in row 0"):
        from_file(listed, tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", x=images[40:])
    assert from_file(listed, tmp_path / "mine.npz").compared == TRAINED_ON
    (bundle / TRAINED_ON).write_bytes(b"123456")
    with pytest.raises(InvalidBundle, match="not the one in the provenance"):
        from_file(listed, tmp_path / "mine.npz")


def test_test_samples_of_a_data_set_are_compared_with_what_was_trained_on(
    bundle: Path, trained_bundle: Path, data_folder: Path, tmp_path: Path
) -> None:
    images, _ = images_of(100, 8)
    assert compare(load_bundle(trained_bundle), images, data_folder) == "split of the provenance"
    assert compare(load_bundle(trained_bundle), images, tmp_path) == "not checked"
    listed = with_list(bundle, images[:40])
    assert compare(listed, images[40:]) == TRAINED_ON
    with pytest.raises(InvalidInput, match="--data: 40 of 100 samples were trained on"):
        compare(listed, images)
    (bundle / TRAINED_ON).write_bytes(b"123456")
    with pytest.raises(InvalidBundle, match="not the one in the provenance"):
        compare(listed, images)


def test_a_split_that_is_not_the_one_trained_on_is_refused(bundle: Path, data_folder: Path) -> None:
    with np.load(data_folder / "cifar10_lossless_train.npz") as arrays:
        images = arrays["x"]
    unseen = held_out(load_bundle(bundle), folder=data_folder)
    kept = np.setdiff1d(np.arange(COUNT), unseen.rows)
    assert len(held_out(with_list(bundle, images[kept]), folder=data_folder)) == 1200
    edit_manifest(bundle, lambda m: m["provenance"]["recipe"].update(seed=5))
    with pytest.raises(InvalidInput, match="of 1200 samples were trained on, the first in row"):
        held_out(load_bundle(bundle), folder=data_folder)


def test_samples_identical_to_one_trained_on_are_left_out(bundle: Path, tmp_path: Path) -> None:
    images, labels = images_of(1000, 1)
    images[500:] = images[:500]  # every image twice: some on either side of the split
    file = tmp_path / "cifar10_lossless_train.npz"
    np.savez(file, x=images, y=labels)
    digest = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    edit_manifest(bundle, lambda m: m["provenance"]["data"].update(sha256=digest))
    unseen = held_out(load_bundle(bundle), folder=tmp_path)
    assert unseen.left_out == 400 - len(unseen) > 0
    twins = np.bincount(unseen.rows % 500)
    assert set(twins.tolist()) <= {0, 1}  # nor is any left twice


def test_a_copy_of_a_sample_counts_once_and_is_said(
    calibrate: Calibrate, tmp_path: Path, bundle: Path, data_folder: Path
) -> None:
    images, labels = images_of(300, 6)
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    once = from_file(load_bundle(bundle), tmp_path / "mine.npz", data_folder)
    np.savez(tmp_path / "mine.npz", x=np.tile(images, (10, 1, 1, 1)), y=np.tile(labels, 10))
    tenfold = from_file(load_bundle(bundle), tmp_path / "mine.npz", data_folder)
    assert (len(tenfold), once.left_out, tenfold.left_out) == (300, 0, 2700)
    np.testing.assert_array_equal(tenfold.rows, np.arange(300))
    # So that 300 samples cannot pass for the 3,000 that the bound would take.
    code, said = calibrate("--max-drop", "0.005", "--images", str(tmp_path / "mine.npz"))
    assert code == 2
    assert "here are 150 of 300" in one_line(said)


def test_a_backbone_that_others_trained_makes_the_part_held_out_unfit(
    calibrate: Calibrate, bundle: Path
) -> None:
    regime = {"kind": "classifier-wise", "backbone_weights": "resnet56.th"}
    edit_manifest(bundle, lambda m: m["provenance"]["recipe"].update(regime=regime))
    code, said = calibrate(*BOUND)
    assert code == 2
    said = one_line(said)
    assert "the backbone's resnet56.th may have seen the part held out; give --images" in said


def test_a_bundle_that_says_nothing_of_its_training_needs_images_and_says_that_it_did_not_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy.scores_bundle(tmp_path / "scores")
    flags = ["calibrate", str(folder), "--cost", "bytes", "--max-drop", "0.1"]
    assert main(flags) == 2
    said = one_line(capsys.readouterr().err)
    assert "provenance: does not say what was held out; give --images" in said
    images, labels = images_of(1000, 2)
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    assert main([*flags, "--images", str(tmp_path / "mine.npz")]) == 0
    assert "overlap with training: not checked" in capsys.readouterr().out
    (certificate,) = load_bundle(folder).manifest.certificates
    assert certificate.compared_with_training == "not checked"
    assert str(certificate).endswith("; overlap with training: not checked")


def test_fingerprints_go_through_a_file() -> None:
    found = fingerprints(np.arange(600, dtype=np.float32).reshape(100, 2, 3))
    content = packed(np.concatenate((found, found[:10])))
    assert len(content) == 600
    assert unpacked(content, "x").tolist() == sorted(found.tolist())
    assert len(unpacked(b"", "x")) == 0
    with pytest.raises(InvalidInput, match="x: 7 bytes are no whole number"):
        unpacked(b"1234567", "x")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3, np.int64)}, "has no array x"),
        ({"x": np.zeros((3, 5, 4, 1), np.uint8)}, "x: uint8 .3, 5, 4, 1., not uint8 of .4, 4, 1."),
        ({"x": np.zeros((3, 4, 4, 1), np.float32)}, "x: float32"),
        ({"x": np.zeros((3, 4, 4, 1), np.uint8), "y": np.zeros(2, np.int64)}, "for 3 samples"),
        ({"x": np.zeros((3, 4, 4, 1), np.uint8), "y": np.zeros(3)}, "y: float64"),
        ({"x": np.zeros((3, 4, 4, 1), np.uint8), "y": np.full(3, 3)}, "outside the 3 classes"),
        ({"x": np.array([{}] * 3, dtype=object)}, "cannot be read: Object arrays"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    trained_bundle: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(InvalidInput, match=message):
        from_file(load_bundle(trained_bundle), tmp_path / "mine.npz")


def test_a_file_that_is_no_archive_is_refused(trained_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    for content, said in (
        (b"PK\x03\x04 broken", "cannot be read"),
        (b"", "is no .npz file"),
        (b"\x93NUMPY", "is no .npz file"),
        (b"\x89PNG\r\n\x1a\n", "is no .npz file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=said) as caught:
            from_file(load_bundle(trained_bundle), path)
        assert caught.value.field == str(path)


def test_one_array_is_refused_as_no_archive_in_one_line(
    calibrate: Calibrate, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, images_of(10, 1)[0])
    code, said = calibrate(*BOUND, "--images", str(path))
    assert code == 2
    assert f"{path}: is no .npz file" in one_line(said)


def test_where_training_data_cannot_be_found_to_compare_with_it_is_said(
    trained_bundle: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", x=images_of(10, 1)[0])
    with pytest.raises(
        InvalidInput, match="cannot be compared with what was trained on, give --folder"
    ):
        from_file(load_bundle(trained_bundle), tmp_path / "mine.npz", tmp_path)
