"""The verbs train, export and bundle, as a user runs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.signing import SIGNATURE
from offramp.cli import main

Writer = Callable[[], Path]


def test_show_prints_stages_bytes_and_policies(
    plain_bundle: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_bundle()
    assert main(["bundle", "show", str(folder)]) == 0
    printed = capsys.readouterr().out
    bundle = load_bundle(folder)
    assert bundle.digest in printed
    assert "codes_1 1x2x2 of 4 bits" in printed
    assert bundle.manifest.policies[0].id in printed


def test_show_as_json_is_the_manifest_and_the_digest(
    plain_bundle: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_bundle()
    assert main(["bundle", "show", "--json", str(folder)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["network"] == load_bundle(folder).digest
    assert shown["held"] == [0, 1]
    assert shown["boundaries"][1]["codec"]["bits"] == 4


def test_verify_names_a_flipped_file_in_one_line_and_exits_with_2(
    plain_bundle: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_bundle()
    path = folder / "stage1.onnx"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    assert main(["bundle", "verify", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "stage1.onnx" in printed.err
    assert printed.err.count("\n") == 1


def test_verify_opens_each_stage(plain_bundle: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(plain_bundle())]) == 2  # hashes are right, layers are not
    assert "stage0.onnx: is no ONNX model" in capsys.readouterr().err


@pytest.mark.train
def test_verify_accepts_an_exported_bundle_and_says_how_much_of_it_is_here(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "verify", str(tiny_bundle.folder)]) == 0
    assert "3 of 3 stages" in capsys.readouterr().out


@pytest.mark.train
def test_a_recipe_becomes_a_run_and_a_run_a_bundle(
    recipe_file: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("onnxscript")
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    data = ["--data", str(small_data)]
    start = ["train", str(recipe_file), "--out", str(run), *data, "--precision", "32-true"]
    assert main([*start, "--stop-after", "1"]) == 0
    assert "go on with --resume" in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(bundle), *data]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main([*start, "--resume"]) == 0
    assert capsys.readouterr().out.count("of the images held out") == 3
    assert main(["export", str(run), "--out", str(bundle), *data, "--name", "small"]) == 0
    assert "policy calibrated" in capsys.readouterr().out
    assert main(["bundle", "verify", str(bundle)]) == 0
    manifest = load_bundle(bundle).manifest
    assert manifest.name == "small"
    assert manifest.provenance["scores"]


@pytest.mark.train
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('at = "blocks.0"', 'at = "block.0"', "exits.0.at: the network has no submodule 'block.0'"),
        ("stride = 2", "stride = 3", "exits.0.codec.stride: of 'blocks.0': 3 does not divide"),
        ("widths = [4", "widths = [0", "backbone.widths.0: "),
    ],
)
def test_a_recipe_that_fits_no_network_names_file_and_key_in_one_line(
    recipe_file: Path,
    small_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    message: str,
) -> None:
    pytest.importorskip("lightning")
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(recipe_file.read_text().replace(before, after))
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--data", str(small_data)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{recipe}: {message}" in error
    assert error.count("\n") == 1


@pytest.mark.train
def test_a_recipe_that_lies_in_out_already_is_refused_in_one_line(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_file.read_text())
    assert main(["train", str(recipe), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "--out: " in error
    assert error.count("\n") == 1
    assert main(["train", str(recipe_file), "--out", str(recipe)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train", "recipe.toml", "--out", "run"], ["export", "run", "--out", "bundle"]]
)
def test_without_torch_a_verb_that_needs_it_names_the_extra_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("offramp.training", "offramp.export", "offramp.models")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import of it meets where it is absent
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"offramp: {arguments[0]}: needs the extra `train` (torch is missing)")
    assert "pip install '.[train]'" in error
    assert error.count("\n") == 1


def test_a_push_to_no_address_is_refused_before_any(
    plain_bundle: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ("--to", "127.0.0.1:1", "--to", "127.0.0.1")
    assert main(["bundle", "push", str(plain_bundle()), *to]) == 2
    assert capsys.readouterr().err == "offramp: --to: '127.0.0.1' is not HOST:PORT\n"


def test_a_signature_that_cannot_be_written_is_one_line(
    plain_bundle: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_bundle()
    (folder / SIGNATURE).mkdir()
    assert main(["bundle", "sign", str(folder), "--key", "no.key"]) == 2
    assert capsys.readouterr().err == f"offramp: bundle: {folder / SIGNATURE} is a folder\n"
