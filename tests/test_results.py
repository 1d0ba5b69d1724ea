"""docs/results.md is what the committed JSON files yield; and what the renderers say of made-up ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

from benchmarks import compute, compute_table, published, record, results, tiers, trained
from benchmarks.plain import plain_recipe
from benchmarks.table import table, verdict

from offramp.data import ImageSet
from offramp.errors import InvalidInput

pytestmark = pytest.mark.train


def test_the_page_is_what_the_files_yield() -> None:
    same = results.PAGE.read_text(encoding="utf-8") == results.page()
    assert same, "run python -m benchmarks.results"


def test_a_section_without_its_file_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    page = results.page()
    for section in results.SECTIONS:
        assert f"## {section.title}\n\nNot measured yet: `{section.command}`" in page


def test_check_tells_a_page_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    assert results.main(["--check"]) == 1
    assert results.main([]) == 0
    assert results.main(["--check"]) == 0


def test_a_table_is_markdown_and_a_verdict_is_a_word() -> None:
    assert table(("a", "b"), [(1, "x")]) == "| a | b |\n|---|---|\n| 1 | x |"
    assert [verdict(holds) for holds in (True, False, None)] == [
        "reached",
        "**not reached**",
        "not measured",
    ]


# --- compute saved ------------------------------------------------------------------------------


def cascade(seed: int, accuracy: float, mean_flops: float, drop: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "exits": [{"accuracy": 0.7, "flops": 20}, {"accuracy": accuracy + drop, "flops": 102}],
        "flops_without_heads": 100,
        "shares": [0.75, 0.25],
        "accuracy": accuracy,
        "drop": {"value": drop, "low": drop - 0.001, "high": drop + 0.001},
        "mean_flops": mean_flops,
        "saved": 1 - mean_flops / 100,
        "saved_with_heads": 1 - mean_flops / 102,
    }


def plain(seed: int, accuracy: float, flops: int = 45) -> dict[str, Any]:
    return {"seed": seed, "accuracy": accuracy, "flops": flops}


def test_the_bars_are_those_of_the_means() -> None:
    cascades = [cascade(1, 0.84, 40, 0.004), cascade(2, 0.83, 44, 0.002)]
    found = compute.summary(cascades, [plain(1, 0.82), plain(2, 0.83)])
    assert (found["saved"], found["drop"]) == pytest.approx((0.58, 0.003))
    assert (found["saves_enough"], found["beats_plain"]) == (True, True)
    assert found["gain"] == pytest.approx(0.01)
    assert compute.summary(cascades, [plain(1, 0.85), plain(2, 0.85)])["beats_plain"] is False
    assert compute.summary([cascade(1, 0.84, 60, 0.0)], [])["saves_enough"] is False
    assert compute.summary(cascades, [plain(1, 0.8, 30)] * 2)["plain_has_as_many_flops"] is False


def test_the_section_shows_every_seed_and_says_what_is_not_reached() -> None:
    cascades = [cascade(1, 0.84, 40, 0.006), cascade(2, 0.83, 44, 0.006)]
    plains = [plain(1, 0.85), plain(2, 0.85)]
    found = {"max_drop": 0.0, "test_images": 5000, "cascades": cascades, "plain": plains}
    found["summary"] = compute.summary(cascades, plains)
    text = compute_table.markdown({"command": "python -m benchmarks.compute", "found": found})
    assert "| 1 | 84.60 | 84.00 | 0.60 [0.50, 0.70] | 0.00 | 60.0% (60.8%) | 75.0, 25.0 |" in text
    assert text.count("**not reached**") == 2


def test_the_plain_network_has_at_least_the_flops_asked_for() -> None:
    text, found = plain_recipe(40e6)
    assert 40e6 <= found < 44e6
    assert text.startswith("stem = 10,")
    with pytest.raises(ValueError, match="flops"):
        plain_recipe(1e12)


def test_a_run_of_another_recipe_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(recipe_file.read_text())
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"not made by benchmarks/configs/cifar10_exits.toml"):
        trained.trained("cifar10_exits", tmp_path, None, seed=1)


def test_a_network_without_exits_becomes_a_bundle_of_one_stage(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    from offramp.export.bundle import Exporting, write_bundle
    from offramp.training import build_network, read_recipe
    from offramp.training.run import held_out

    text = recipe_file.read_text()
    start, end = text.index("[[exits]]"), text.index("[optimiser]")
    path = tmp_path / "plain.toml"
    path.write_text("exits = []\n" + text[:start] + text[end:])
    recipe = read_recipe(path)
    network = build_network(recipe, (32, 32, 3), 10).eval()
    held = held_out(recipe, small_data)
    bundle = write_bundle(network, tmp_path / "bundle", held, Exporting(name="plain"))
    assert len(bundle.manifest.network.stages) == 1
    network_of = compute.Network(
        tmp_path, bundle, 3, (np.zeros((4, 10), np.float32),), np.zeros(4, np.int64)
    )
    test = ImageSet(
        name="t",
        images=held.images[:4],
        labels=held.labels[:4],
        classes=held.classes,
        sha256={},
    )
    row = compute.plain_row(network_of, test)
    assert row["flops"] == network_of.costs[-1] > 0
    assert 0 <= row["accuracy"] <= 1


# --- the others ---------------------------------------------------------------------------------


def test_a_certificate_that_nothing_passes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "test_images": 10,
        "backbone_accuracy": 0.9,
        "flops_without_heads": 100,
        "exits": [{"at": "layer1.0", "flops": 10, "accuracy": 0.5, "low": 0.4, "high": 0.6}],
        "parity": {"1": 1e-6, "32": 2e-3},
        "equal_to_the_bit": True,
        "certified": {
            "samples": 5,
            "most_errors": -1,
            "fewest_samples": 299,
            "candidates": 3,
            "candidate": 0,
        },
    }
    text = published.markdown({"command": "c", "found": found})
    assert "Nothing beyond 'nobody leaves early' was certified" in text
    assert text.count("**not reached**") == 1


def test_the_tiers_bars_name_what_is_missed() -> None:
    def figures(share: float, accuracy: float, up: float) -> dict[str, Any]:
        times = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": None}
        alone = {**times, "bytes_up_per_sent": 140.0}
        moved = {"bytes_up": up, "bytes_down": 1.0, "bytes_up_per_sent": 140.0, "degraded": 0}
        return {"share": share, "accuracy": accuracy, **times, **moved, "one_in_flight": alone}

    whole = figures(1.0, 0.937, 280.0)
    names = ("first_exit", "plain_split", "all_device", "cloud_png", "cloud_jpeg")
    measured = {
        "tiers": {
            "device": figures(0.6, 0.97, 20.0),
            "fog": figures(0.3, 0.9, 5.0),
            "cloud": figures(0.1, 0.5, 0.0),
        },
        "overall": figures(1.0, 0.936, 25.0),
        "baselines": dict.fromkeys(names, whole),
    }
    network = [{"flops": 1, "parameters": 1, "boundary_bytes": 784, "held_out_accuracy": None}] * 3
    bars = tiers.bars(measured, network, 508.0)
    assert [bar["what"] for bar in bars if not bar["holds"]] == ["answered by the device"]
    found = {"images": 100, "network": network, "figures": measured, "bars": bars}
    text = tiers.markdown({"command": "python -m benchmarks.tiers", "found": found})
    assert "| cloud only, PNG | 100.0 | 93.70 |" in text
