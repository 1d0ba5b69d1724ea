"""The demo on a part of the images: what it prints and writes, and that its figures hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.cli import main

ROOT = Path(__file__).parent.parent
IMAGES = 200
KEYS = {"share", "accuracy", "p50_ms", "p95_ms", "p99_ms", "bytes_up", "bytes_down"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path]:
    """Its JSON, what it printed, and its picture."""
    folder = tmp_path_factory.mktemp("demo")
    figures, picture = folder / "demo.json", folder / "demo.png"
    command = [sys.executable, "-m", "offramp.cli", "demo", "--images", str(IMAGES)]
    command += ["--json", str(figures), "--picture", str(picture)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(figures.read_text()), done.stdout, picture


def test_the_json_holds_tiers_overall_and_all_baselines(demo: tuple[dict, str, Path]) -> None:
    figures, _, _ = demo
    assert set(figures["tiers"]) == {"device", "fog", "cloud"}
    assert set(figures["baselines"]) == {
        "first_exit",
        "all_device",
        "cloud_png",
        "cloud_jpeg",
        "plain_split",
    }
    arms = [*figures["tiers"].values(), figures["overall"], *figures["baselines"].values()]
    assert all(set(arm) >= KEYS for arm in arms)


def test_shares_sum_to_one_and_bytes_to_the_overall(demo: tuple[dict, str, Path]) -> None:
    figures, _, _ = demo
    tiers, overall = figures["tiers"].values(), figures["overall"]
    assert sum(tier["share"] for tier in tiers) == pytest.approx(1)
    for key in ("bytes_up", "bytes_down"):
        assert sum(tier[key] for tier in tiers) == pytest.approx(overall[key])
    right = sum(tier["share"] * tier["accuracy"] for tier in tiers if tier["share"])
    assert right == pytest.approx(overall["accuracy"])


def test_only_what_crosses_a_link_costs_bytes(demo: tuple[dict, str, Path]) -> None:
    baselines = demo[0]["baselines"]
    for local in ("first_exit", "all_device"):
        assert (baselines[local]["bytes_up"], baselines[local]["bytes_down"]) == (0, 0)
    assert baselines["plain_split"]["bytes_up"] > demo[0]["overall"]["bytes_up"]
    assert baselines["cloud_png"]["bytes_up"] > baselines["plain_split"]["bytes_up"]


def test_every_way_to_the_last_exit_is_as_right(demo: tuple[dict, str, Path]) -> None:
    baselines = demo[0]["baselines"]
    accuracies = [
        baselines[name]["accuracy"] for name in ("all_device", "plain_split", "cloud_png")
    ]
    # A code at a quantiser's step may flip with the batch that it ran in: an image at most, here.
    assert max(accuracies) - min(accuracies) <= 1 / IMAGES


def test_a_message_of_one_image_costs_no_less_than_its_share_of_a_shared_one(
    demo: tuple[dict, str, Path],
) -> None:
    split = demo[0]["baselines"]["plain_split"]
    assert split["one_in_flight"]["bytes_up_per_sent"] >= split["bytes_up_per_sent"]


def test_no_answer_of_a_sound_deployment_is_degraded(demo: tuple[dict, str, Path]) -> None:
    figures = demo[0]
    arms = [figures["overall"], *figures["baselines"].values()]
    assert [arm["degraded"] for arm in arms] == [0] * len(arms)


def test_it_prints_a_table_and_draws_a_picture(demo: tuple[dict, str, Path]) -> None:
    _, printed, picture = demo
    for row in ("device", "fog", "cloud", "three tiers, with exits", "cloud only, PNG"):
        assert row in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--json", "/nowhere/x.json"], "--json: the folder of /nowhere/x.json does not exist"),
        (["--json", "/proc/x.json"], "--json: /proc/x.json cannot be written: No such file"),
        (["--picture", "/proc"], "--picture: /proc is a folder"),
        (["--picture", "e.txt"], "--picture: e.txt does not end in .png"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    flags: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--bundle", "/nowhere", *flags]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"offramp: {said}")
    assert told.count("\n") == 1
