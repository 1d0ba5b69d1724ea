"""`offramp evaluate` on bundles by hand: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("rich")

from tests.serving import toy

from offramp.bundle import load_bundle, write_manifest
from offramp.cli import main
from offramp.cli.outputs import check_output
from offramp.errors import InvalidInput


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.scores_bundle(tmp_path / "scores")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.stack(toy.SURE_AT), y=np.arange(3))
    return path


def evaluate(bundle: Path, *more: object) -> int:
    cache = bundle.parent / "cache"
    return main(["evaluate", str(bundle), "--cache", str(cache), *map(str, more)])


def test_it_prints_tables_and_says_what_is_left_out(
    bundle: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(bundle, "--images", samples) == 0
    printed = capsys.readouterr().out
    for row in ("policy usual", "exit 2 alone", "cloud only, PNG", "cloud only, JPEG q75"):
        assert row in printed
    assert "without" in printed
    assert "no curve: provenance: does not say what was held out" in printed
    assert "--images" not in printed
    assert "overlap with training: not checked" in printed
    assert "its codecs are 0.00 of them" in " ".join(printed.split())


def test_json_on_stdout_is_all_that_is_there(
    bundle: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(bundle, "--images", samples, "--json", "-", "--policy", "usual") == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["policies"]) == {"usual"}
    usual = figures["policies"]["usual"]["accuracy"]
    assert usual["low"] < usual["value"] == usual["high"] == 1
    assert figures["data"]["samples"] == 3
    assert set(figures["data"]["sha256"]) == {"samples.npz"}
    assert figures["data"]["compared_with_training"] == "not checked"
    assert figures["bundle"]["network"] == load_bundle(bundle).digest
    assert len(figures["stages"]) == len(figures["exits"]) == 3


def test_it_draws_a_picture(bundle: Path, samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    assert evaluate(bundle, "--images", samples, "--picture", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_network_of_raw_tensors_is_evaluated_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, path = toy.raw_bundle(tmp_path / "raw"), tmp_path / "raw.npz"
    np.savez(path, x=np.ones((4, 1, 3, 1), np.float32), y=np.zeros(4, np.int64))
    assert evaluate(bundle, "--images", path) == 0
    assert "cloud only, raw tensor" in capsys.readouterr().out


def test_what_is_looked_at_before_the_work_stays_as_it_is(tmp_path: Path) -> None:
    there, other = tmp_path / "there.json", tmp_path / "other.json"
    there.write_text("{}")
    for path in (there, other, Path("/dev/null")):
        check_output("--json", path)
    assert there.read_text() == "{}"
    assert not other.exists()
    there.unlink()
    there.symlink_to(tmp_path / "absent" / "x.json")
    check_output("--json", there)
    assert there.is_symlink()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match=r"--json: .* cannot be written: Permission denied"):
        check_output("--json", tmp_path / "x.json")


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policy", "nobody"], "--policy: 'nobody' is none of usual, never, always"),
        (["--deploy", "-1"], "--deploy: -1 is below 0"),
        (["--deploy", "3"], "--deploy: needs the policies first-exit and final-exit"),
        (["--picture", "/nowhere/x.png"], "--picture: the folder of /nowhere/x.png does not exist"),
        (["--json", "/nowhere/x.json"], "--json: the folder of /nowhere/x.json does not exist"),
        (["--json", "/proc/x.json"], "--json: /proc/x.json cannot be written: No such file"),
        (["--json", "/proc"], "--json: /proc is a folder"),
        (["--picture", "/proc/x.png"], "--picture: /proc/x.png cannot be written: No such file"),
        (["--picture", "/proc"], "--picture: /proc is a folder"),
        (["--picture", "e.txt"], "--picture: e.txt does not end in .png"),
    ],
)
def test_a_wrong_option_is_one_line_before_the_work(
    bundle: Path,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setattr("offramp.cli.evaluate.evaluate", lambda *_, **__: pytest.fail("it began"))
    assert said in refused(capsys, evaluate(bundle, "--images", samples, *more))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((3, 5, 4, 1), np.uint8), "y": np.arange(3)}, "not uint8"),
        ({"x": np.stack(toy.SURE_AT)}, "accuracy needs labels"),
        ({"x": np.stack(toy.SURE_AT), "y": np.array([0, 1, 3])}, "outside the 3 classes"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, np.ndarray],
    said: str,
) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    assert said in refused(capsys, evaluate(bundle, "--images", path))


def test_a_data_set_of_another_shape_is_refused(
    bundle: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = evaluate(bundle, "--data", "cifar10-lossless", "--folder", small_data)
    assert "data: uint8 [32, 32, 3] each, not uint8 [4, 4, 1]" in refused(capsys, code)


@pytest.mark.train
def test_test_images_by_name_come_with_a_curve_fixed_on_those_held_out(
    tiny_bundle: object, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_bundle.folder  # type: ignore[attr-defined]
    out = tmp_path / "figures.json"
    common = ["--data", "cifar10-lossless", "--folder", str(small_data), "--json", str(out)]
    code = main(["evaluate", str(folder), "--cache", str(tmp_path / "cache"), *common])
    assert code == 0, capsys.readouterr().err
    figures = json.loads(out.read_text())
    assert figures["data"]["samples"] == 64


@pytest.mark.train
def test_data_of_another_hash_than_the_provenance_says_is_refused(
    tiny_bundle: object, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)  # type: ignore[attr-defined]
    manifest = load_bundle(folder).manifest
    hashes = {"cifar10_lossless_test.npz": "0" * 64}
    provenance = {**manifest.provenance, "data": {"sha256": hashes}}
    write_manifest(folder, manifest.model_copy(update={"provenance": provenance}))
    code = main(
        ["evaluate", str(folder), "--data", "cifar10-lossless", "--folder", str(small_data)]
    )
    assert "cifar10_lossless_test.npz: SHA-256" in refused(capsys, code)
