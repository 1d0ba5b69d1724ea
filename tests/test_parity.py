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

from benchmarks import parity as benchmark

from offramp.bundle import Bundle
from offramp.export.parity import Parity, StageParity, compare, error, judge_codes

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
