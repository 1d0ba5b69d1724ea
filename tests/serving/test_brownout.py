"""Greedier exits while there is too much to do, and the policy's own again afterwards."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.serving.tiers import eventually, running, scrape
from tests.serving.toy import SURE_AT
from tests.serving.wire import ScriptedTier, answer, scripted

from offramp.bundle import Brownout, BrownoutStep, Bundle, Manifest, load_bundle, write_manifest
from offramp.client import AsyncClient
from offramp.errors import InvalidBundle, InvalidSettings
from offramp.rpc import Tier
from offramp.serving import brownout
from offramp.serving.settings import BrownoutSettings

UNSURE, LESS_SURE = SURE_AT[2], SURE_AT[1]
ON = {"on": True, "hold_s": 0.05}


def with_steps(scores: Path, folder: Path, *thresholds: tuple[float, ...]) -> Path:
    """A copy of "scores" with a step of its first policy for each tuple of thresholds."""
    shutil.copytree(scores, folder)
    manifest = load_bundle(folder).manifest
    shares = (1.0, 0.0, 0.0)
    steps = [BrownoutStep(thresholds=t, accuracy=0.5, exit_shares=shares) for t in thresholds]
    made = Brownout(policy=manifest.policies[0].id, samples=100, steps=tuple(steps))
    write_manifest(folder, manifest.model_copy(update={"brownouts": (made,)}))
    return folder


@pytest.fixture
def stepped(scores: Path, tmp_path: Path) -> Path:
    return with_steps(scores, tmp_path / "stepped", (0.8, 0.8), (0.0, 0.0))


def seen(one: brownout.Brownout, pressure: float, begin: float, seconds: float) -> None:
    """A sample every 10 ms, from `begin` on."""
    for k in range(round(seconds / 0.01) + 1):
        one.see(pressure, begin + k * 0.01)


def test_steps_up_under_pressure_stays_between_and_steps_back() -> None:
    told: list[int] = []
    one = brownout.Brownout(BrownoutSettings(on=True), 2, told.append)
    seen(one, 0.7, 0.0, 2.0)
    assert told == []
    seen(one, 1.0, 2.01, 5.0)
    assert told == [1, 2]
    seen(one, 0.7, 7.02, 2.0)
    assert told == [1, 2]
    seen(one, 0.1, 9.03, 2.0)
    assert told == [1, 2, 1, 0]


def test_a_quiet_moment_ends_it() -> None:
    one = brownout.Brownout(BrownoutSettings(on=True), 2)
    seen(one, 1.0, 0.0, 5.0)
    assert one.step == 2
    one.see(1.0, 6.0)
    assert one.step == 0


async def test_a_device_answers_more_itself_while_the_fog_has_no_room(stepped: Path) -> None:
    fog = ScriptedTier(lambda _: None, credits_=2)
    async with (
        scripted(fog) as address,
        running(Tier.DEVICE, stepped, 0, address, brownout=ON) as device,
        AsyncClient(device.listen) as client,
    ):
        under_way = [asyncio.create_task(client.infer(UNSURE, deadline_s=30)) for _ in range(2)]
        await eventually(lambda: len(fog.samples) == 2)
        reasons = []
        while "brownout" not in reasons:
            given = await client.infer(LESS_SURE)
            reasons.append(given.degraded)
        assert set(reasons) == {"overloaded", "brownout"}
        assert (given.exit, given.certified, given.policy) == (0, False, under_way_policy(stepped))
        assert (await client.infer(SURE_AT[0])).degraded is None  # by the policy itself
        assert scrape(device.metrics)["offramp_brownout_step", ""] >= 1
        fog.script = lambda _: answer()
        for one in list(fog.samples):
            fog.answer(one)
        await asyncio.gather(*under_way)
        async with asyncio.timeout(20):  # every sample is looked at; one of them ends it
            while scrape(device.metrics)["offramp_brownout_step", ""]:
                last = await client.infer(LESS_SURE)
        found = scrape(device.metrics)
    assert last.degraded is None
    assert found["offramp_degraded_total", 'reason="brownout"'] >= 1


def under_way_policy(folder: Path) -> str:
    return load_bundle(folder).manifest.policies[0].id


async def test_switched_off_it_changes_nothing(stepped: Path) -> None:
    fog = ScriptedTier(lambda _: None, credits_=1)
    async with (
        scripted(fog) as address,
        running(Tier.DEVICE, stepped, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        first = asyncio.create_task(client.infer(UNSURE, deadline_s=30))
        await eventually(lambda: fog.samples)
        reasons = {(await client.infer(UNSURE)).degraded for _ in range(50)}
        fog.answer(fog.samples[0])
        await first
    assert reasons == {"overloaded"}


async def test_a_bundle_without_steps_is_named(scores: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"brownout\.on: scores has no steps prepared"):
        async with running(Tier.DEVICE, scores, 0, brownout=ON):
            pass


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [
        (((0.95, 0.5),), "steps.0.thresholds: above those of the step before"),
        (((0.5, 0.5), (0.4, 0.6)), "steps.1.thresholds: above those of the step before"),
        (((0.5,),), "steps.0.thresholds: 1 of 2 early exits"),
    ],
)
def test_steps_that_make_no_sense_are_refused(
    scores: Path, tmp_path: Path, thresholds: tuple[tuple[float, ...], ...], complaint: str
) -> None:
    with pytest.raises(InvalidBundle, match=complaint):
        load_bundle(with_steps(scores, tmp_path / "odd", *thresholds))


def test_steps_of_a_policy_that_is_not_there_are_refused(stepped: Path) -> None:
    manifest: Manifest = load_bundle(stepped).manifest
    odd = manifest.brownouts[0].model_copy(update={"policy": "0" * 64})
    write_manifest(stepped, manifest.model_copy(update={"brownouts": (odd,)}))
    with pytest.raises(InvalidBundle, match=r"brownouts\.0: of policy 000000000000, not here"):
        load_bundle(stepped)


def test_steps_are_no_part_of_the_network(scores: Path, stepped: Path) -> None:
    plain: Bundle = load_bundle(scores)
    assert load_bundle(stepped).digest == plain.digest
    assert "brownouts" not in plain.manifest.model_dump(mode="json")


def test_settings_that_would_flap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"below: 0\.8 is not below `above`, 0.8"):
        BrownoutSettings(on=True, below=0.8)
