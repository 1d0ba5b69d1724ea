"""The comparison of training regimes: its units, its fits and its table, on made-up outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")

from benchmarks import regimes
from benchmarks.regimes_table import markdown

pytestmark = pytest.mark.train

SEEDS = (1, 2)
FLOPS = {"none": [100]}  # of the others: an early exit at a fifth, another at a half


def made_up(config: str, seed: int, split: str) -> dict[str, np.ndarray]:
    """1,000 samples whose true class scores 2 (4 at later exits, 2.4 at a distilled first) above noise."""
    chance = np.random.default_rng([seed, split == "test"])
    labels = chance.integers(0, 10, 1000)
    first = {"distillation": 2.4, "adaptive": 1.8}.get(config, 2.0)
    arrays = {f"{split}_labels": labels}
    for k, height in enumerate([4.0] if config == "none" else [first, 3.0, 4.0]):
        logits = chance.normal(size=(1000, 10)).astype(np.float32)
        logits[np.arange(1000), labels] += height
        arrays[f"{split}_logits_{k}"] = logits
        if config == "branching" and k < 2:
            arrays[f"{split}_gate_{k}"] = logits.max(1) - 3
    return arrays


def keep_units(tmp_path: Path) -> None:
    """The units of all configurations, as `run_unit` keeps them."""
    for config in {row.config for row in regimes.ROWS}:
        for seed in SEEDS:
            arrays = made_up(config, seed, "held") | made_up(config, seed, "test")
            np.savez(tmp_path / f"{config}-{seed}.npz", **arrays)
            unit = {
                "recipe": regimes.plain_recipe(config, seed),
                "cpu_s": 10.0 * seed,
                "threads": 1,
                "flops": FLOPS.get(config, [20, 50, 105]),
                "data": {"train": "0" * 64},
            }
            (tmp_path / f"{config}-{seed}.json").write_text(json.dumps(unit))


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with all units."""
    monkeypatch.setattr(regimes, "RUNS", tmp_path)
    keep_units(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with all units, not to be changed, and what they come to."""
    folder = tmp_path_factory.mktemp("units")
    keep_units(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regimes, "RUNS", folder)
        return folder, regimes.summarise(SEEDS)


def test_a_unit_is_done_while_its_configuration_stays_as_it_was(units: Path) -> None:
    assert regimes.is_done("joint", 1)
    assert not regimes.is_done("joint", 3)
    path = units / "joint-1.json"
    path.write_text(re.sub('"epochs": [0-9]+', '"epochs": 1', path.read_text()))
    assert not regimes.is_done("joint", 1)


def test_of_two_processes_one_gets_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "unit.lock"
    with regimes.locked(path, wait=False) as first, regimes.locked(path, wait=False) as second:
        assert (first, second) == (True, False)
    with regimes.locked(path, wait=True) as again:
        assert again


def test_units_that_are_there_are_not_trained_again(
    units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []

    def run_unit(config: str, seed: int, _folder: Path | None) -> None:
        trained.append((config, seed))
        (units / f"{config}-{seed}.json").write_text(
            json.dumps({"recipe": regimes.plain_recipe(config, seed)})
        )

    monkeypatch.setattr(regimes, "run_unit", run_unit)
    regimes.run_units(["none", "joint"], [1, 3], None)
    assert trained == [("none", 3), ("joint", 3)]


def test_accuracy_cost_and_bar_are_those_of_the_outputs(
    summary: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = summary
    rows = {row["name"]: row["seeds"] for row in found["rows"]}
    with np.load(folder / "joint-2.npz") as arrays:
        first = (arrays["test_logits_0"].argmax(1) == arrays["test_labels"]).mean()
    joint = rows["joint, fixed weights"][1]
    assert joint["accuracy"][0] == pytest.approx(first, abs=1e-4)
    shares = np.array(joint["exit_shares"])
    assert shares.sum() == pytest.approx(1.0, abs=1e-3)
    assert joint["mean_flops"] == pytest.approx(shares @ [20, 50, 105], abs=1)
    assert joint["flops_saved"] == pytest.approx(1 - joint["mean_flops"] / 100, abs=0.01)
    assert rows["no exits"][0]["flops_saved"] == 0
    gain = found["first_exit_gain_over_joint"]
    assert min(gain["distillation"]) > 0 > max(gain["adaptive"])
    assert gain["by_loss"] == [0, 0]
    assert found["passes"]


def test_equal_in_the_mean_is_not_better(units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = {"by_loss": [0.0099, -0.0074, -0.0025]}  # sums to 1e-18 in floating point
    monkeypatch.setattr(regimes, "gains", lambda _rows: differences)
    monkeypatch.setattr(regimes, "ROWS", regimes.ROWS[:1])
    assert regimes.summarise([1])["passes"] is False


def test_combined_exits_answer_better_than_the_same_exits_alone(
    summary: tuple[Path, dict[str, Any]],
) -> None:
    rows = {row["name"]: row["seeds"][0] for row in summary[1]["rows"]}
    alone = rows["joint, fixed weights"]["accuracy"]
    for combined in ("mean", "geometric mean", "learned mean"):
        row = rows[f"joint, {combined} of exits"]
        assert row["accuracy"][0] == alone[0]  # nothing before it
        assert row["accuracy"][1] > alone[1]
    weights = [exit_["weight"] for exit_ in rows["joint, learned mean of exits"]["policy"]]
    assert weights[0] < weights[2]


def test_thresholds_save_the_most_within_the_drop_that_is_allowed() -> None:
    confidence = np.array([[0.9, 0.8, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0]])
    right = np.array([[True, True, False, True], [True, True, True, True]])
    # Within 1 %, the first two may leave; the third would be an error, and stands before the fourth.
    assert regimes.fit_thresholds(confidence, right, [1, 10]) == [0.8]
    never = regimes.fit_thresholds(confidence, np.array([[False] * 4, [True] * 4]), [1, 10])
    assert never[0] > 1


def test_the_section_says_every_row_the_bar_and_the_command(
    summary: tuple[Path, dict[str, Any]],
) -> None:
    text = markdown({"found": summary[1], "seeds": list(SEEDS), "command": "python -m it"})
    assert all(f"| {row.name} |" in text for row in regimes.ROWS)
    assert "exits after 20%, 50%, 105% of its FLOPs" in text
    assert "distillation: +" in text
    assert "joint, adaptive weights (variance): -" in text
    assert "is met." in text
    assert text.endswith("    python -m it")
    assert "15 ± 7" in text  # CPU seconds: 10 and 20
