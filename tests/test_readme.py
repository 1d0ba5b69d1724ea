"""What README.md tells a newcomer to type does what it says; `make demo` and `make test` are tested elsewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.evaluation.deployment import Deployment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def command_lines(program: str) -> list[str]:
    """The indented lines that run a program whose name begins so, environment variables in front allowed."""
    return re.findall(rf"^    ((?:[A-Z_]+=\S+ )?{program}.*?)\s*(?:#.*)?$", README, re.MULTILINE)


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def run(line: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", *shlex.split(line)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def started(line: str, folder: Path) -> Iterator[str]:
    """The tier that a line starts, on free ports; where it listens."""
    free = "--listen 127.0.0.1:0 --metrics 127.0.0.1:0"
    command = ["env", *shlex.split(f"{line} {free}")]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as tier:
        try:
            assert tier.stdout is not None
            ready = re.search(r"^ready \w+ listen=(\S+)", tier.stdout.readline())
            assert ready, line
            yield ready[1]
        finally:
            tier.terminate()


@contextmanager
def three_tiers(
    bundle: str = "examples/fashion_mnist/bundle", folder: Path = ROOT
) -> Iterator[str]:
    """The tiers as the README starts them, each asking the one before; where the device listens."""
    where = ""
    with ExitStack() as tiers:
        for line in command_lines("offramp-"):
            here = re.sub(r"127\.0\.0\.1:\d+", where, line)
            where = tiers.enter_context(
                started(here.replace("examples/fashion_mnist/bundle", bundle), folder)
            )
        yield where


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    stages = {"device": 0, "fog": 1, "cloud": 2}
    with Deployment(ROOT / "examples/fashion_mnist/bundle", stages) as deployment:
        yield deployment.device


@pytest.mark.parametrize("line", command_lines("offramp-"))
def test_every_tier_accepts_the_settings_that_the_readme_gives_it(line: str) -> None:
    done = run(f"{line} --check-config")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tiers_of_the_readme_are_told_where_the_next_one_listens_by_default() -> None:
    dialled = [re.findall(r"127\.0\.0\.1:(\d+)", line) for line in command_lines("offramp-")]
    assert dialled == [[], ["7103"], ["7102"]]


def test_the_tiers_of_the_readme_find_one_another_and_the_cloud_answers() -> None:
    asked = command_lines("offramp infer")[1]
    with three_tiers() as device:
        done = run(f"{asked} --json --device {device}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["tier"], answer["degraded"]) == ("cloud", None)


def test_the_image_of_the_readme_is_answered(device: str) -> None:
    line = command_lines("offramp infer")[0]
    done = run(line.replace("127.0.0.1:7101", device))
    assert done.returncode == 0, done.stderr
    assert "Ankle boot" in done.stdout


def test_the_client_of_the_readme_runs(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    exec(python_blocks()[0].replace("127.0.0.1:7101", device), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("9 ")


def dominated(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and the channel that is lifted in it."""
    chance = np.random.default_rng(count)
    labels = chance.integers(0, 3, count)
    images = chance.integers(0, 160, (count, 32, 32, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 90
    return images, labels


def test_a_network_of_ones_own_goes_from_the_readme_to_a_certificate_and_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = torch.nn.Conv2d(3, 12, 3, stride=4, padding=1)
            self.layer3 = torch.nn.Conv2d(12, 16, 3, stride=2, padding=1)
            self.head = torch.nn.Linear(16, 3)

        def forward(self, images):
            return self.head(self.layer3(self.layer1(images).relu()).relu().mean((2, 3)))

    torch.manual_seed(1)
    monkeypatch.chdir(tmp_path)
    train_images, train_labels = dominated(512)
    held_images, held_labels = dominated(800)
    pairs = zip(train_images, train_labels, strict=True)
    names = {
        "model": Backbone(),
        "batches": 6 * list(torch.utils.data.DataLoader(list(pairs), batch_size=32)),
        "train_images": train_images,
        "held_images": held_images,
        "held_labels": held_labels,
    }
    attaching, exporting = python_blocks()[1:]
    exec(attaching, names)  # noqa: S102
    exec(exporting, names)  # noqa: S102
    (saved,) = re.findall(r"`(np\.savez\(.*?\))`", README)
    exec(saved, names | {"np": np})  # noqa: S102
    np.savez("train.npz", x=train_images, y=train_labels)
    np.savez("test.npz", **dict(zip("xy", dominated(100), strict=True)))
    Image.fromarray(held_images[0]).save("photo.png")

    (calibrate,) = command_lines("offramp calibrate bundle --images")
    done = run(calibrate.replace("held_out.npz", "train.npz"), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "512 of 512 samples were trained on" in done.stderr
    done = run(calibrate, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "use it with --policy certified" in done.stdout
    (evaluate,) = command_lines("offramp evaluate bundle --images")
    done = run(f"{evaluate} --cache cache", tmp_path)
    assert done.returncode == 0, done
    assert "certified" in done.stdout
    (infer,) = command_lines("offramp infer photo.png")
    with three_tiers("bundle", tmp_path) as device:
        done = run(f"{infer} --json --device {device}", tmp_path)
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert (answer["certified"], answer["class"]) == (True, ["cat", "dog", "owl"][held_labels[0]])
