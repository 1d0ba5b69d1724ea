"""The profiles that come with offramp, and what a profile file must not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from offramp.errors import InvalidInput
from offramp.links.profile import load_profile, profile_names
from offramp.links.quantiles import Quantiles

NAMES = [
    "5g-embb-target",
    "5g-mmwave-drive",
    "5g-mmwave-static",
    "5g-mmwave-walk",
    "5g-nsa-low",
    "5g-nsa-mid",
    "5g-sa-mid",
    "5g-urllc-target",
    "lte",
    "metro-fibre",
    "wan-continental",
    "wan-region",
    "wifi6",
]


def test_the_thirteen_profiles_are_there() -> None:
    assert profile_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_profile_has_a_tag_and_a_source(name: str) -> None:
    profile = load_profile(name)
    told = list(profile.sourced())
    assert len(told) >= 10
    assert {sourced.tag for _, sourced in told} <= {"measured", "target", "estimate"}
    assert all(len(sourced.source.split()) >= 2 for _, sourced in told)
    assert {path.split(".")[0] for path, _ in told} >= {"round_trip_ms", "up", "down"}


@pytest.mark.parametrize("name", NAMES)
def test_a_target_calls_itself_one_and_nothing_else_does(name: str) -> None:
    profile = load_profile(name)
    is_target = name.endswith("-target")
    assert (profile.kind == "target") == is_target
    assert ("target, not a measurement" in profile.title) == is_target


def test_what_is_only_reckoned_is_not_called_measured() -> None:
    assert load_profile("lte").kind == "measured"
    assert (
        load_profile("5g-nsa-mid").kind == "estimate"
    )  # its round trips less a guessed wired path


def test_the_mean_loss_is_that_of_the_two_states() -> None:
    way = load_profile("lte").up
    assert way.loss.loss is not None
    assert way.loss.loss.mean == pytest.approx(way.loss.mean.value)
    assert 1 / way.loss.loss.leave == pytest.approx(way.loss.burst_packets.value)
    assert load_profile("5g-embb-target").up.loss.loss is None


def test_a_table_is_linear_between_its_quantiles_and_ends_at_its_ends() -> None:
    table = Quantiles.of({0: 10, 50: 20, 100: 40})
    assert table.at(np.array([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == [10, 15, 20, 30, 40]
    assert table.cdf(np.array([9.0, 15.0, 30.0, 41.0])).tolist() == [0, 0.25, 0.75, 1]
    assert table.percentiles == {0: 10, 50: 20, 100: 40}


def test_an_atom_is_counted_once_by_the_distance() -> None:
    table = Quantiles.of({0: 0, 40: 0, 100: 6})
    right = table.at((np.arange(1000) + 0.5) / 1000)
    assert table.distance(right) < 0.001
    assert table.distance(right[right > 0]) == pytest.approx(0.4, abs=0.001)
    assert table.distance(np.zeros(10)) == pytest.approx(0.6)


# --- what is refused ----------------------------------------------------------------------------


def changed(folder: Path, change: Any, name: str = "mine") -> str:
    content = yaml.safe_load(
        (Path(__file__).parents[2] / "deploy/links/lte.yaml").read_text(encoding="utf-8")
    )
    change(content)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_a_profile_of_ones_own_is_named_as_its_file(tmp_path: Path) -> None:
    assert load_profile(changed(tmp_path, lambda content: None)).name == "mine"


def test_an_unknown_profile_is_answered_with_near_names() -> None:
    with pytest.raises(InvalidInput, match=r"no '5g-nsa-med'; near: 5g-nsa-mid"):
        load_profile("5g-nsa-med")
    with pytest.raises(InvalidInput, match=r"no 'xyzzy'; known: 5g-embb-target, "):
        load_profile("xyzzy")


def at(content: Any, **values: float) -> None:
    content["round_trip_ms"]["quantiles"][0]["at"].update(
        {float(k[1:]): v for k, v in values.items()}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: at(c, p50=20.0), r"round_trip_ms: quantiles are out of order: 20 at 50 %"),
        (lambda c: at(c, p50=-1.0), r"round_trip_ms\.quantiles\.0\.at\.50"),
        (lambda c: at(c, p50=float("nan")), r"round_trip_ms\.quantiles\.0\.at\.50"),
        (lambda c: at(c, p101=2000.0), r"round_trip_ms\.quantiles\.0\.at\.101"),
        (
            lambda c: c["round_trip_ms"]["quantiles"][0]["at"].pop(100),
            r"round_trip_ms: must name 0 and 100",
        ),
        (
            lambda c: c["round_trip_ms"].pop("correlation_s"),
            r"round_trip_ms: correlation_s belongs",
        ),
        (
            lambda c: c["up"]["rate_mbit"]["quantiles"].append(
                {"tag": "estimate", "source": "twice the same", "at": {50: 36}}
            ),
            r"up\.rate_mbit: 50 % is stated in two parts",
        ),
        (
            lambda c: c["up"]["queue_bytes"].pop("source"),
            r"up\.queue_bytes\.source: Field required",
        ),
        (lambda c: c["up"]["queue_bytes"].update(tag="sure"), r"up\.queue_bytes\.tag"),
        (lambda c: c["up"]["queue_bytes"].update(value=0), r"up\.queue_bytes\.value"),
        (lambda c: c["up"]["loss"]["mean"].update(value=1.0), r"up\.loss: mean is too large"),
        (lambda c: c["events"][0].update(mode="stall"), r"events\.0\.mode"),
        (lambda c: c.update(jitter=3), r"jitter: no such key"),
        (
            lambda c: c["up"]["queue_bytes"].update(tag="target"),
            r"the name 'mine' must end in -target",
        ),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        load_profile(changed(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_only_a_target_may_be_called_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'mine-target' must not end in -target"):
        load_profile(changed(tmp_path, lambda content: None, "mine-target"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("a: 2001-99-99", "is no YAML"),
        ("a: !!bool x", "is no YAML"),
        ("", "has no keys"),
        ("- 1", "has no keys"),
        ("a: 1", "Field required"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        load_profile(str(path))
    with pytest.raises(InvalidInput, match="there is no file"):
        load_profile(str(tmp_path / "absent.yaml"))
