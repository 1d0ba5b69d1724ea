"""A tier that stands for a slower machine: how its stages are stretched, what it refuses, what it shows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.serving.tiers import LOCAL, running, scrape
from tests.serving.toy import SURE_AT

from offramp.client import AsyncClient
from offramp.errors import InvalidSettings
from offramp.rpc import Tier
from offramp.serving import pace
from offramp.serving.composition import compose
from offramp.serving.pace import Stretch
from offramp.serving.settings import TierSettings
from offramp.serving.tier_profile import REFERENCE, read_tier_profile, shipped_profiles

pytest.importorskip("yaml")

SLOW = "{ value: 3, tag: estimate, source: by hand }"


def profile_file(folder: Path, *lines: str) -> Path:
    path = folder / "slate.yaml"
    path.write_text("\n".join(["description: a slow slate", *lines]) + "\n")
    return path


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pace, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


# --- the stretch --------------------------------------------------------------------------------


def test_a_stretched_batch_takes_slowdown_times_as_long_as_it_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    stretch = Stretch(3.0)
    clock.now += 2.0
    stretch.wait()
    assert clock.now == 106.0


def test_what_was_waited_is_not_stretched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stretch = Stretch(3.0)
    for _ in range(4):
        clock.now += 1.0
        stretch.wait()
    assert clock.now == 112.0


def test_a_slowdown_of_1_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stretch = Stretch(1.0)
    clock.now += 2.0
    stretch.wait()
    assert clock.now == 102.0


async def test_the_stage_time_of_a_rehearsed_tier_is_stretched_and_its_answers_are_not(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    sleep = time.sleep

    def wait(seconds: float) -> None:
        waited.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(pace.time, "sleep", wait)
    file = profile_file(tmp_path, f"slowdown: {SLOW}")
    async with (
        running(Tier.DEVICE, scores, 0) as plain,
        running(Tier.DEVICE, scores, 0, tier_profile=str(file)) as slow,
        AsyncClient(plain.listen) as plain_client,
        AsyncClient(slow.listen) as slow_client,
    ):
        expected = await plain_client.infer(SURE_AT[0])
        assert waited == []
        answer = await slow_client.infer(SURE_AT[0])
    (pause,) = waited
    (leg,) = answer.trail
    assert leg.computed_s >= pause * 3 / 2 * 0.999  # two thirds of it are the wait
    assert answer.label == expected.label
    assert np.array_equal(answer.probabilities, expected.probabilities)


# --- what it shows ------------------------------------------------------------------------------


async def test_metrics_and_summary_say_which_machine_a_tier_stands_for(
    scores: Path, tmp_path: Path
) -> None:
    watts = [f"  {state}: {SLOW}" for state in ("idle", "busy", "sending")]
    file = profile_file(tmp_path, f"slowdown: {SLOW}", "watts:", *watts)
    async with running(Tier.FOG, scores, 1, tier_profile=str(file)) as fog:
        seen = scrape(fog.metrics)
        assert fog.summary().endswith(f"stands for slate, 3 times as slow as {REFERENCE}")
    assert seen["offramp_slowdown_ratio", ""] == 3
    assert {labels for name, labels in seen if name == "offramp_power_watts"} == {
        f'state="{state}"' for state in ("idle", "busy", "sending")
    }
    (labels,) = [labels for name, labels in seen if name == "offramp_tier_profile_info"]
    assert 'profile="slate"' in labels


async def test_a_tier_without_a_profile_says_that_it_is_itself(scores: Path) -> None:
    async with running(Tier.FOG, scores, 1) as fog:
        seen = scrape(fog.metrics)
        assert "stands for" not in fog.summary()
    assert seen["offramp_slowdown_ratio", ""] == 1
    (labels,) = [labels for name, labels in seen if name == "offramp_tier_profile_info"]
    assert 'profile="none"' in labels


# --- what it refuses ----------------------------------------------------------------------------


async def test_stages_above_the_memory_are_refused_by_name(scores: Path, tmp_path: Path) -> None:
    size = (scores / "stage0.onnx").stat().st_size
    memory = f"memory_bytes: {{ value: {size}, tag: estimate, source: by hand }}"
    file = profile_file(tmp_path, f"slowdown: {SLOW}", memory)
    common = {"bundle": scores, "listen": LOCAL, "metrics": LOCAL, "tier_profile": str(file)}

    def settings(last_stage: int) -> TierSettings:
        return TierSettings.model_validate({**common, "plan": {"last_stage": last_stage}})

    await compose(Tier.DEVICE, settings(0)).close()
    with pytest.raises(
        InvalidSettings, match=rf"tier_profile: slate has {size:,} bytes .* stage 1"
    ):
        compose(Tier.DEVICE, settings(1))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "slowdown: Field required"),
        (["slowdown: 3"], "slowdown: Input should be"),
        (["slowdown: { value: 0.5, tag: estimate, source: s }"], "slowdown.value: "),
        (["slowdown: { value: .nan, tag: estimate, source: s }"], "slowdown.value: "),
        (["slowdown: { value: 2, tag: guess, source: s }"], "slowdown.tag: "),
        (["slowdown: { value: 2, tag: estimate }"], "slowdown.source: Field required"),
        ([f"slowdown: {SLOW}", "colour: red"], "colour: no such key"),
        ([f"slowdown: {SLOW}", "watts: {}"], "watts.idle: Field required"),
        (["slowdown: ["], "is no YAML: "),
        (["slowdown: 2001-99-99"], "is no YAML: "),
        (["slowdown: !!timestamp x"], "is no YAML: "),
    ],
)
def test_a_file_that_is_no_profile_is_named_with_the_key(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    file = profile_file(tmp_path, *lines)
    with pytest.raises(InvalidSettings) as failure:
        read_tier_profile(str(file))
    assert str(failure.value).startswith(f"tier_profile: {file}: {said}")
    assert "\n" not in str(failure.value)


def test_a_list_is_no_profile(tmp_path: Path) -> None:
    file = tmp_path / "list.yml"
    file.write_text("- 1\n")
    with pytest.raises(InvalidSettings, match="is no table of keys"):
        read_tier_profile(str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"none\.yaml: cannot be read"):
        read_tier_profile(str(tmp_path / "none.yaml"))


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(
        InvalidSettings, match="no profile 'raspbery-pi-4'; near it: raspberry-pi-4"
    ):
        read_tier_profile("raspbery-pi-4")


def test_without_pyyaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InvalidSettings, match="tier_profile: needs PyYAML"):
        read_tier_profile("raspberry-pi-4")


# --- the profiles that come with it -------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_shipped_profile_is_one(name: str) -> None:
    profile = read_tier_profile(name)
    assert profile.name == name
    assert profile.slowdown.value >= 1


def test_a_slower_machine_has_the_larger_slowdown() -> None:
    names = ["cloud-server", "fog-nuc", "raspberry-pi-5", "jetson-orin-nano-cpu", "raspberry-pi-4"]
    slowdowns = [read_tier_profile(name).slowdown.value for name in names]
    assert slowdowns == sorted(slowdowns)
