"""The parity rule: what it lets pass, and what it does not."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from benchmarks import families, parity_zoo
from benchmarks import parity as benchmark
from torch import Tensor, nn

from offramp.bundle import Bundle
from offramp.data import ImageSet, TensorSet
from offramp.errors import InvalidBundle
from offramp.export.bundle import Exporting, write_bundle
from offramp.export.parity import Parity, StageParity, compare, error, judge_codes
from offramp.models import ExitAt, HeadSpec, attach
from offramp.models.zoo import RecurrentClassifier
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("code", "level", "flip", "violation"),
    [
        (2, 2.4, False, False),
        (3, 2.4995, True, False),  # within 1e-3 of the step at 2.5
        (2, 2.5005, True, False),
        (3, 2.4985, False, True),  # one level off, but not at a step
        (4, 2.4999, False, True),  # at a step, but two levels off
        (0, 0.0, False, False),
        (1, 0.5, True, False),  # a half rounds to the even 0
    ],
)
def test_a_code_may_be_one_level_off_at_a_step_and_nowhere_else(
    code: int, level: float, flip: bool, violation: bool
) -> None:
    flips, violations = judge_codes(np.uint8([code]), np.float32([level]))
    assert (flips.tolist(), violations.tolist()) == ([flip], [violation])


def test_errors_are_relative_for_large_values_and_absolute_for_small_ones() -> None:
    found = np.array([[0.5, 100.0], [0.0, 0.0]], np.float32)
    wanted = np.array([[0.25, 100.0], [0.0, 50.0]], np.float32)
    np.testing.assert_allclose(error(found, wanted), [0.25, 1.0])


def test_an_exported_bundle_keeps_the_rule_at_every_batch_size(
    untrained: Any, tiny_bundle: Bundle
) -> None:
    for batch in (1, 3, 32):
        found = compare(untrained.network, tiny_bundle, pixels(64), batch=batch)
        assert found.holds, found
        assert [stage.codes for stage in found.stages] == [64 * 128, 64 * 192, 0]


@pytest.mark.parametrize(
    "weight",
    [
        "heads.0.2.bias",
        "codecs.1.encoder.1.bias",
        "backbone.blocks.1.conv1.weight",
        "heads.1.5.bias",
    ],
)
def test_a_network_with_one_other_weight_breaks_the_rule(
    untrained: Any, tiny_bundle: Bundle, weight: str
) -> None:
    other = copy.deepcopy(untrained.network)
    with torch.no_grad():
        other.get_parameter(weight).add_(0.05)
    assert not compare(other, tiny_bundle, pixels(32), batch=32).holds
    assert compare(untrained.network, tiny_bundle, pixels(32), batch=32).holds


def test_a_stage_that_says_what_is_not_finite_is_named(tmp_path: Path) -> None:
    class Overflowing(nn.Module):
        """Infinite where an input is not 0, in both programs alike."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            features = self.first(x)
            logits: Tensor = self.out(features)
            return logits + features.sum(1, keepdim=True) * 1e38

    takes = TensorSpec(name="x", dtype="float32", shape=(4,))
    exits = [ExitAt(at="first", head=HeadSpec(kind="pool"))]
    network = attach(Overflowing(), exits, prepare=None, takes=takes).eval()
    samples = np.zeros((96, 4), np.float32)
    samples[5] = 1
    held = TensorSet(
        name="x", samples=samples, labels=np.zeros(96, np.int64), classes=("a", "b", "c"), sha256={}
    )
    with pytest.raises(
        InvalidBundle, match=r"stages.1: its logits is not finite for 1 of 96 samples"
    ):
        write_bundle(network, tmp_path / "bundle", held, Exporting(name="x"))
    assert not (tmp_path / "bundle").exists()


def test_more_than_one_flipped_image_in_a_hundred_breaks_the_rule() -> None:
    stages = (StageParity(),)
    assert Parity(1000, stages, flipped=10).holds
    assert not Parity(1000, stages, flipped=11).holds
    assert not Parity(1000, stages, worst=2e-4).holds
    assert not Parity(1000, (StageParity(violations=1),)).holds


def test_the_benchmark_rebuilds_the_network_from_the_bundle_and_prints_each_rule(
    tiny_bundle: Bundle, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", str(tiny_bundle.folder), "--data", str(small_data)]
    assert benchmark.main([*arguments, "--images", "40"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) == 7 + 4  # against PyTorch, and of the deployment
    assert all(line.endswith("  ok") for line in lines)
    assert "of 40" in printed


def test_the_benchmark_fails_by_exit_code_where_a_rule_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err
    broken = benchmark.rows_of(Parity(10, (StageParity(worst=1.0),)))
    assert [holds for *_, holds in broken] == [False, True, True]


def test_the_reference_needs_no_torch() -> None:
    program = "import sys, offramp.evaluation.reference; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.filterwarnings("ignore:.*_flat_weights.*were assigned during export")
def test_a_family_of_the_zoo_becomes_two_rows_of_the_results(tmp_path: Path) -> None:
    small = families.Family(
        name="LSTM",
        origin="zoo, random",
        build=lambda _: RecurrentClassifier(channels=96, classes=4, width=4, depth=2),
        exits=("layers.0", "layers.1"),
        size=0,
        samples=9,
    )
    images = ImageSet(
        name="noise",
        images=pixels(12),
        labels=np.arange(12) % 4,
        classes=tuple("abcd"),
        sha256={},
    )
    plain, coded = (
        parity_zoo.measured(small, tmp_path, images, codec=codec) for codec in (False, True)
    )
    assert plain["holds"]
    assert plain["backbone"]["pytorch_equal_to_the_bit"]
    assert plain["boundaries"][1] == {"tensors": ["features_1 float32 [32, 4]"], "bytes": 512}
    assert coded["holds"]
    assert coded["boundaries"][1] == {"tensors": ["codes_1 uint8 [4, 32]"], "bytes": 64}
    assert coded["codes"] == 9 * 4 * 32
    found = {"tolerance": 1e-4, "holds": True, "networks": [plain, coded]}
    page = parity_zoo.markdown({"command": "parity --zoo", "found": found})
    assert "to the bit in 1 of 1 networks" in page
    assert page.count("| reached |") == 2


def test_a_family_that_cannot_be_exported_is_a_row_that_says_so(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svd(x[:, :4, :4]).S

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(96, 4), nn.Linear(4, 4)
            self.last = Sorted()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x)))

    family = families.Family(
        name="x",
        origin="y",
        build=lambda _: Whole(),
        exits=("first", "second"),
        size=0,
        samples=4,
    )
    images = ImageSet(
        name="noise", images=pixels(4), labels=np.arange(4), classes=tuple("abcd"), sha256={}
    )
    row = parity_zoo.measured(family, tmp_path, images, codec=False)
    assert not row["holds"]
    assert "aten._linalg_svd in 'last'" in row["refused"]
    page = parity_zoo.markdown(
        {"command": "", "found": {"tolerance": 1e-4, "holds": False, "networks": [row]}}
    )
    assert "**not reached**" in page


def test_the_zoo_asks_for_its_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OFFRAMP_DATA", raising=False)
    assert benchmark.main(["--zoo"]) == 2
    assert benchmark.main(["--zoo", "--data", str(tmp_path)]) == 2
    unsaid, lacking = capsys.readouterr().err.splitlines()
    assert "OFFRAMP_DATA" in unsaid
    assert "lacks weights/resnet56" in lacking


def test_what_is_not_a_number_is_never_near() -> None:
    found = np.array([[np.nan], [np.inf], [np.inf], [1.0]], np.float32)
    wanted = np.array([[0.0], [np.inf], [1.0], [1.0]], np.float32)
    assert error(found, wanted).tolist() == [np.inf, 0.0, np.inf, 0.0]
