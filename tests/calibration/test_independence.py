"""`offramp evaluate`: whether samples can check a certificate, and which curve they come with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("rich")

from tests.calibration.made import BOUND, Calibrate, images_of
from tests.test_bundle import edit_manifest

from offramp.bundle import load_bundle
from offramp.cli import main
from offramp.data.unseen import held_out

Evaluate = Callable[[Path], dict[str, Any]]


@pytest.fixture
def evaluate(
    bundle: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Evaluate:
    """Runs the verb on a file of samples; its JSON."""

    def call(samples: Path) -> dict[str, Any]:
        where = ["--folder", str(data_folder), "--cache", str(tmp_path / "cache")]
        capsys.readouterr()
        code = main(["evaluate", str(bundle), "--images", str(samples), *where, "--json", "-"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return dict(json.loads(out))

    return call


def written(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(path, x=images, y=labels)
    return path


def test_samples_that_made_a_certificate_are_no_check_of_it(
    calibrate: Calibrate, evaluate: Evaluate, tmp_path: Path
) -> None:
    mine = written(tmp_path / "mine.npz", *images_of(1200, 2))
    assert calibrate("--max-drop", "0.05", "--images", str(mine))[0] == 0
    renamed = tmp_path / "other.npz"
    renamed.write_bytes(mine.read_bytes())
    figures = evaluate(renamed)
    assert [risk["is_independent"] for risk in figures["certificates"]] == [False]
    assert "the risk of certified is no independent check" in figures["notes"]["risk"]
    figures = evaluate(written(tmp_path / "fresh.npz", *images_of(400, 3)))
    assert [risk["is_independent"] for risk in figures["certificates"]] == [True]
    assert "risk" not in figures["notes"]
    assert figures["data"]["compared_with_training"] == "split of the provenance"


def test_samples_held_out_are_known_in_another_file_too(
    calibrate: Calibrate, evaluate: Evaluate, bundle: Path, data_folder: Path, tmp_path: Path
) -> None:
    assert calibrate(*BOUND)[0] == 0
    unseen = held_out(load_bundle(bundle), folder=data_folder)
    images, labels = images_of(400, 3)
    assert unseen.labels is not None
    images[0], labels[0] = unseen.samples[7], unseen.labels[7]
    figures = evaluate(written(tmp_path / "mine.npz", images, labels))
    assert [risk["is_independent"] for risk in figures["certificates"]] == [False]


def test_a_backbone_that_others_trained_gets_its_report_without_the_curve(
    evaluate: Evaluate, bundle: Path, tmp_path: Path
) -> None:
    regime = {"kind": "classifier-wise", "backbone_weights": "resnet56.th"}
    edit_manifest(bundle, lambda m: m["provenance"]["recipe"].update(regime=regime))
    figures = evaluate(written(tmp_path / "mine.npz", *images_of(100, 3)))
    assert figures["curve"] == []
    assert "resnet56.th may have seen the part held out" in figures["notes"]["curve"]


def test_copies_are_left_out_and_said(evaluate: Evaluate, tmp_path: Path) -> None:
    images, labels = images_of(50, 3)
    twice = np.concatenate([images, images]), np.concatenate([labels, labels])
    figures = evaluate(written(tmp_path / "mine.npz", *twice))
    assert (figures["data"]["samples"], figures["data"]["left_out"]) == (50, 50)
    assert figures["notes"]["copies"].startswith("left out: 50 samples")
