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

import pytest

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
def started(line: str) -> Iterator[str]:
    """The tier that a line starts, on free ports; where it listens."""
    free = "--listen 127.0.0.1:0 --metrics 127.0.0.1:0"
    command = ["env", *shlex.split(f"{line} {free}")]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as tier:
        try:
            assert tier.stdout is not None
            ready = re.search(r"^ready \w+ listen=(\S+)", tier.stdout.readline())
            assert ready, line
            yield ready[1]
        finally:
            tier.terminate()


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    stages = {"device": 0, "fog": 1, "cloud": 2}
    with Deployment(ROOT / "examples/fashion_mnist/bundle", stages) as deployment:
        yield deployment.device


@pytest.mark.parametrize("line", command_lines("offramp-"))
def test_every_tier_accepts_the_settings_that_the_readme_gives_it(line: str) -> None:
    done = run(f"{line} --check-config")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tiers_of_the_readme_find_one_another_and_the_cloud_answers() -> None:
    address: dict[str, str] = {}  # in place of the one that the README says the tier listens on
    with ExitStack() as tiers:
        for line, usual in zip(command_lines("offramp-"), (7103, 7102, 7101), strict=True):
            for here, there in address.items():
                line = line.replace(here, there)
            address[f"127.0.0.1:{usual}"] = tiers.enter_context(started(line))
        asked = command_lines("offramp infer")[1]
        done = run(f"{asked} --json --device {address['127.0.0.1:7101']}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["tier"], answer["degraded"]) == ("cloud", None)


def test_the_image_of_the_readme_is_answered(device: str) -> None:
    line, _ = command_lines("offramp infer")
    done = run(line.replace("127.0.0.1:7101", device))
    assert done.returncode == 0, done.stderr
    assert "Ankle boot" in done.stdout


def test_the_client_of_the_readme_runs(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    exec(python_blocks()[0].replace("127.0.0.1:7101", device), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("9 ")


def test_the_network_of_the_readme_gets_its_exits() -> None:
    torch = pytest.importorskip("torch")

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = torch.nn.Conv2d(3, 12, 3, stride=2, padding=1)
            self.layer3 = torch.nn.Conv2d(12, 16, 3, stride=2, padding=1)
            self.head = torch.nn.Linear(16, 7)

        def forward(self, images):
            return self.head(self.layer3(self.layer1(images)).mean((2, 3)))

    images = torch.zeros((4, 32, 32, 3), dtype=torch.uint8)
    names = {"model": Backbone(), "images": images}
    exec(python_blocks()[1], names)  # noqa: S102
    assert [tuple(logits.shape) for logits in names["logits"]] == [(4, 7)] * 3
