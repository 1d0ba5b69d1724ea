"""Three tiers over emulated links: what a short run meets of a long timeline, and what an outage costs each arm."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yaml")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from offramp.bundle import load_bundle
from offramp.cli import main
from offramp.data import load
from offramp.errors import InvalidInput
from offramp.evaluation.comparison import arms
from offramp.evaluation.rehearsal import Rehearsal, link_timelines, rehearse
from offramp.links.excerpt import calm, excerpt, passing_share
from offramp.links.timeline import Direction, Loss, State, Timeline
from offramp.rpc import Answer

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "examples/fashion_mnist/bundle"
OPEN, HOLD = State.OPEN, State.HOLD


def counted(rows: int, *, held: tuple[int, ...] = ()) -> Timeline:
    """Rows of 0.1 s whose delay up is their number in ms, and 1 ms down; those named are held."""
    state = np.array([HOLD if row in held else OPEN for row in range(rows)], np.uint8)
    rate = np.where(state == HOLD, 0.0, 10.0)
    up = Direction(np.arange(float(rows)), rate, state, 50_000, Loss(0.1, 0.5, 0.0, 1.0))
    down = Direction(np.ones(rows), np.full(rows, 20.0), np.zeros(rows, np.uint8), 60_000)
    return Timeline("counted", "trace", 3, 0.1, up, down)


def test_an_excerpt_is_pieces_at_equal_distances() -> None:
    short = excerpt(counted(100), seconds=0.6, piece_s=0.2)
    assert short.up.delay_ms.tolist() == [0, 1, 33, 34, 66, 67]
    assert (short.name, short.kind, short.seed, short.step_s) == ("counted", "trace", 3, 0.1)
    assert short.up.loss is not None


def test_an_excerpt_lasts_as_long_as_asked_or_longer() -> None:
    assert excerpt(counted(100), seconds=0.5, piece_s=0.2).duration_s == pytest.approx(0.6)
    assert excerpt(counted(10), seconds=1.0, piece_s=0.3).duration_s == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("seconds", "piece_s", "named"), [(11, 1, "seconds"), (0, 1, "seconds"), (1, 0.01, "piece_s")]
)
def test_an_excerpt_that_cannot_be_is_refused(seconds: float, piece_s: float, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        excerpt(counted(100), seconds=seconds, piece_s=piece_s)


def test_a_calm_link_is_the_middle_of_it_and_always_open() -> None:
    row = calm(counted(11, held=(3, 4)))
    assert (row.up.delay_ms.tolist(), row.up.rate_mbit.tolist()) == ([5], [10])
    assert (row.up.state.tolist(), row.up.loss, row.idle) == ([OPEN], None, None)
    assert calm(counted(2, held=(0, 1))).up.rate_mbit.tolist() == [1]


def test_the_passing_share_counts_rows_that_are_open_both_ways() -> None:
    assert passing_share(counted(8, held=(1, 2))) == 0.75


def test_both_links_have_a_timeline_and_a_seed_of_their_own() -> None:
    links = link_timelines("lte", "metro-fibre", seed=5)
    found = {tier: (line.name, line.seed, line.duration_s) for tier, line in links.items()}
    assert found == {
        "device": ("lte", 5, pytest.approx(600)),
        "fog": ("metro-fibre", 6, pytest.approx(600)),
    }


@pytest.mark.parametrize("wrong", [{"per_second": 0.0}, {"deadline_s": float("nan")}])
def test_a_rehearsal_of_no_pace_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Rehearsal(**wrong)


def test_over_a_link_that_holds_everything_the_device_answers_degraded() -> None:
    bundle = load_bundle(BUNDLE)
    test = load("fashion-mnist", "test", ROOT / "examples/fashion_mnist")
    shut = counted(20, held=tuple(range(20)))
    rehearsal = Rehearsal(
        links={"device": replace(shut, name="shut")}, per_second=20.0, deadline_s=1.5
    )
    split = [arm for arm in arms(3) if arm.name in ("first_exit", "plain_split")]
    seen = []
    found = rehearse(
        bundle,
        test.images[:8],
        test.labels[:8],
        split,
        rehearsal,
        watch=lambda arm, timed: seen.append((arm, timed)),
    )
    first, plain = found.results["first_exit"], found.results["plain_split"]
    assert (first.run.degraded, plain.run.degraded + plain.unanswered) == (0, 8)
    assert first.run.tiers["device"].share == plain.run.tiers["device"].share == 1
    outcomes = [timed.outcome for arm, timed in seen if arm == "plain_split"]
    assert {a.degraded for a in outcomes if isinstance(a, Answer)} == {"deadline"}
    assert plain.run.overall.p50_ms is not None
    assert plain.run.overall.p50_ms > 1000  # the wait for the deadline
    (facts,) = found.links.values()
    assert (facts["profile"], facts["engine"], facts["passing_share"]) == ("shut", "stream", 0)


# --- the command --------------------------------------------------------------------------------


def test_the_demo_runs_over_links_and_says_which(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offramp.cli", "demo", "--profile", "5g-urllc-target"]
    command += ["--cloud-profile", "metro-fibre", "--engine", "stream", "--images", "12"]
    command += ["--json", str(tmp_path / "demo.json"), "--picture", str(tmp_path / "demo.png")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "device-fog 5g-urllc-target (target, seed 0)" in done.stderr
    assert "engine stream; 12 of 10,000 images, 50 a second" in done.stderr
    assert "loses no packet" in done.stderr
    for row in ("device", "three tiers, with exits", "cloud only, PNG", "degr."):
        assert row in done.stdout
    figures = json.loads((tmp_path / "demo.json").read_text())
    links = figures["rehearsal"]["links"]
    assert {tier: link["profile"] for tier, link in links.items()} == {
        "device": "5g-urllc-target",
        "fog": "metro-fibre",
    }
    assert {link["engine"] for link in links.values()} == {"stream"}
    assert sum(tier["share"] for tier in figures["tiers"].values()) == pytest.approx(1)
    assert set(figures["baselines"]) >= {"plain_split", "cloud_png", "all_device"}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profile", "5g-mmwave-driv"], "near: 5g-mmwave-drive"),
        (["--profile", "lte", "--cloud-profile", "wan-regio"], "near: wan-region"),
        (["--profile", "lte", "--seed", "-1"], "seed: -1 is below 0"),
        (["--cloud-profile", "lte"], "--cloud-profile: goes with --profile only"),
        (["--engine", "stream"], "--engine: goes with --profile only"),
        (["--profile", "lte", "--images", "0"], "--images: 0 is not at least 1"),
    ],
)
def test_a_demo_that_cannot_be_is_one_line_before_anything_starts(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--bundle", "nowhere", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
