"""The wheel alone is enough: in a bare environment every tier starts from another folder, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "examples/fashion_mnist/bundle"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env/bin/python"
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--constraint",
        ROOT / "constraints.txt",
    ]
    subprocess.run([*pip, ROOT], check=True, timeout=300)
    return folder / "env/bin"


@pytest.mark.parametrize("tier", ["device", "fog", "cloud"])
def test_every_tier_checks_its_bundle_from_another_folder(
    bare: Path, tier: str, tmp_path: Path
) -> None:
    command = [bare / f"offramp-{tier}", "--bundle", BUNDLE, "--check-config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bundle fashion-mnist" in done.stdout


def test_the_base_install_holds_no_torch_and_says_what_training_needs(bare: Path) -> None:
    listed = subprocess.run(
        [bare / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert not names & {"torch", "lightning", "onnx", "matplotlib", "rich", "fastapi"}
    done = subprocess.run(
        [bare / "offramp", "train", "recipe.toml", "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "extra `train`" in done.stderr
    assert done.stderr.count("\n") == 1
