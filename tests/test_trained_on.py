"""What training saw, from the run through the bundle to the calibration that it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from offramp.bundle import load_bundle
from offramp.cli import main
from offramp.data.fingerprints import TRAINED_ON
from offramp.data.unseen import from_file, held_out
from offramp.errors import InvalidInput


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
