"""What the benchmark over all link profiles keeps, refuses and concludes, by hand-made measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

from benchmarks import profiles, profiles_plot, profiles_table

from offramp.bundle import load_bundle
from offramp.errors import InvalidInput

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "examples/fashion_mnist/bundle"


def arm(p50: float, accuracy: float = 0.93, **other: Any) -> dict[str, Any]:
    times = {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50}
    moved = {"bytes_up": 30.0, "bytes_down": 20.0, "bytes_up_per_sent": 140.0}
    shares = {"device": 0.85, "fog": 0.1, "cloud": 0.05}
    told = {"degraded": 0, "unanswered": 0, "shares": shares}
    return {"share": 1.0, "accuracy": accuracy, **times, **moved, **told, **other}


def link(profile: str, **other: Any) -> dict[str, Any]:
    facts = {"profile": profile, "kind": "measured", "seed": 0, "engine": "packet"}
    rows = {"round_trip_p50_ms": 30.0, "round_trip_p95_ms": 60.0, "passing_share": 0.9}
    limits = {"congestion": "cubic", "mtu": 1500, "limit_mbit": 900.0, "clipped": []}
    return {**facts, **rows, **limits, **other}


def over(profile: str, three: dict[str, Any]) -> dict[str, Any]:
    others = {name: arm(50.0) for name in ("plain_split", "cloud_png", "cloud_jpeg")}
    links = {"device": link(profile), "fog": link("wan-region", clipped=["up", "down"])}
    return {"links": links, "arms": {"three_tier": three, "certified": arm(4.0), **others}}


LOCAL = {"links": {}, "arms": {"first_exit": arm(2.0, 0.92), "all_device": arm(5.0, 0.937)}}


def found(**measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": 600,
        "per_second": 50.0,
        "deadline_s": 1.0,
        "piece_s": 2.0,
        "seed": 0,
        "engine": "packet",
        "kernel_congestion": "cubic",
        "fog_cloud": "wan-region",
        "machines": {},
        "local": LOCAL,
        "profiles": measured,
    }


def flags(folder: Path, *more: str) -> list[str]:
    paths = ["--folder", str(folder), "--bundle", str(BUNDLE), "--data", str(BUNDLE.parent)]
    return [*paths, "--engine", "stream", "--images", "5", *more]


def settings(folder: Path, *more: str) -> dict[str, Any]:
    arguments = profiles.arguments_parser().parse_args(flags(folder, *more))
    return profiles.settings_of(arguments, load_bundle(BUNDLE))


def keep(folder: Path, name: str, measured: dict[str, Any]) -> None:
    content = {"settings": settings(folder), "found": measured}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_run_goes_on_with_what_is_measured_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, "local", LOCAL)
    keep(tmp_path, "lte", over("lte", arm(3.0)))
    keep(tmp_path, "wifi6", over("wifi6", arm(3.0)))
    assert profiles.main(flags(tmp_path, "--profiles", "lte")) == 0
    said = capsys.readouterr().out
    assert "### lte" in said
    assert "### wifi6" in said


def test_an_image_without_an_answer_of_the_three_tiers_breaks_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, "local", LOCAL)
    keep(tmp_path, "lte", over("lte", arm(3.0, unanswered=2)))
    assert profiles.main(flags(tmp_path, "--profiles", "lte")) == 1
    assert "lte, three_tier: 2 of 5 without an answer" in capsys.readouterr().err


def test_what_was_measured_with_other_settings_is_measured_again(tmp_path: Path) -> None:
    first, other = settings(tmp_path), settings(tmp_path, "--seed", "7")
    assert profiles.kept(tmp_path / "a" / "lte.json", first, lambda: 1) == 1
    assert profiles.kept(tmp_path / "a" / "lte.json", first, lambda: 2) == 1
    assert profiles.kept(tmp_path / "a" / "lte.json", other) is None
    assert profiles.kept(tmp_path / "a" / "lte.json", other, lambda: 3) == 3


def test_the_settings_name_what_the_figures_depend_on(tmp_path: Path) -> None:
    named = settings(tmp_path, "--machines", "device=raspberry-pi-4")
    assert (named["engine"], named["seed"], named["images"]) == ("stream", 0, 5)
    assert named["policies"] == {"three_tier": "calibrated", "certified": "certified"}
    assert named["machines"] == {"device": "raspberry-pi-4"}
    assert named["kernel_congestion"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--profiles", "lt"], "near: lte"),
        (["--cloud-profile", "wan"], "there is no 'wan'"),
        (["--machines", "edge=raspberry-pi-4"], "is not TIER=NAME"),
        (["--machines", "device=raspberry-pi-44"], "near it: raspberry-pi-4"),
        (["--images", "0"], "0 is not at least 1"),
        (["--engine", "auto"], "invalid choice"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        profiles.main(flags(tmp_path, *more))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_machines_are_named_by_tier() -> None:
    assert profiles.parse_machines(["fog=fog-nuc"]) == {"fog": "fog-nuc"}
    with pytest.raises(InvalidInput, match="--machines"):
        profiles.parse_machines(["fog"])


def test_the_section_has_a_table_a_profile_and_counts_where_three_tiers_are_faster() -> None:
    measured = found(
        lte=over("lte", arm(3.0, degraded=6)),
        wifi6=over("wifi6", arm(60.0, 0.91, unanswered=1)),
    )
    text = profiles_table.markdown({"command": "python -m benchmarks.profiles", "found": measured})
    assert "engine **packet** on both links, the kernel's congestion control `cubic`" in text
    assert "plain split, exits off: p50 in 1, p95 in 1" in text
    assert "all on the device: p50 in 1, p95 in 1" in text
    assert "accuracy is 91.0 % at the least" in text
    assert "the three tiers are equal" in text
    assert (
        "| **three tiers, with exits** | 3.0 | 6.0 | 9.0 | 30.0 | 20.0 | 93.0 | 85.0 | 10.0 | 5.0 | 1.0 |"
        in text
    )
    assert "rates up and down clipped to 900 Mbit/s" in text
    assert "had no answer in time, and are in none of these figures: three tiers, with exits 1" in (
        text
    )


def test_the_section_names_the_machines_that_tiers_stood_for() -> None:
    measured = found(lte=over("lte", arm(3.0))) | {"machines": {"device": "raspberry-pi-4"}}
    text = profiles_table.markdown({"command": "c", "found": measured})
    assert "device as `raspberry-pi-4`" in text
    assert "img/profiles_machines.png" in text


def test_the_picture_has_a_group_of_lines_a_profile(tmp_path: Path) -> None:
    measured = found(lte=over("lte", arm(3.0)), wifi6=over("wifi6", arm(4.0)))
    profiles_plot.draw(measured, tmp_path / "img" / "profiles.png")
    assert (tmp_path / "img" / "profiles.png").read_bytes().startswith(b"\x89PNG")
