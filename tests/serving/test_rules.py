"""Every rule and combination over three real tiers, and what its samples carry from one to the next."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.serving import toy
from tests.serving.gated import POLICIES, gated_bundle, random_images
from tests.serving.tiers import running
from tests.serving.wire import ScriptedTier, answer, calling, sample, scripted, tensors

from offramp.bundle import Bundle, load_bundle, write_manifest
from offramp.cli import main
from offramp.client import AsyncClient
from offramp.errors import InvalidBundle
from offramp.evaluation.agreement import ties
from offramp.evaluation.reference import answer as answer_here
from offramp.evaluation.reference import run_stages
from offramp.exits import ExitPolicy, ExitSetting
from offramp.rpc import Answer, Tier
from offramp.serving.runner import open_session

IMAGES = random_images(60)
DEADLINE_S = 30.0  # more than the 10 s for which "anytime" would leave
DEPLOYED = [policy.name for policy in POLICIES]


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gated_bundle(tmp_path_factory.mktemp("bundles") / "gated")


@pytest.fixture(scope="module")
def bundle(gated: Path) -> Bundle:
    return load_bundle(gated)


async def ask(gated: Path, last_stages: tuple[int, int, int], policy: str) -> list[Answer]:
    """What a device on a fog node on a cloud that end at these stages says of IMAGES."""
    address: str | None = None
    async with AsyncExitStack() as stack:
        for tier, last in zip((Tier.CLOUD, Tier.FOG, Tier.DEVICE), last_stages[::-1], strict=True):
            parts = await stack.enter_async_context(running(tier, gated, last, address))
            address = parts.listen
        client = await stack.enter_async_context(AsyncClient(str(address), policy=policy))
        asked = (client.infer(image, deadline_s=DEADLINE_S) for image in IMAGES)
        return list(await asyncio.gather(*asked))


@pytest.mark.parametrize("name", DEPLOYED)
@pytest.mark.parametrize("last_stages", [(0, 1, 2), (0, 0, 2), (2, 2, 2)])
async def test_three_tiers_decide_as_one_process_does(
    gated: Path, bundle: Bundle, name: str, last_stages: tuple[int, int, int]
) -> None:
    policy = bundle.manifest.policy(name)
    assert policy is not None
    reference = run_stages(bundle, IMAGES, batch=7)
    here = answer_here(policy, reference.logits, gates=reference.gates)
    deployed = await ask(gated, last_stages, name)
    assert [a.exit for a in deployed] == here.exits.tolist()
    assert [a.label for a in deployed] == here.labels.tolist()
    assert {a.degraded for a in deployed} == {None}
    assert {a.policy for a in deployed} == {policy.id}


def test_the_images_tell_the_policies_apart(bundle: Bundle) -> None:
    reference = run_stages(bundle, IMAGES, batch=60)
    told = set()
    for policy in bundle.manifest.policies:
        here = answer_here(policy, reference.logits, gates=reference.gates)
        told.add((*here.exits.tolist(), *here.labels.tolist()))
        if policy.rule == "patience":
            assert set(here.exits.tolist()) == {1, 2}  # nobody agrees with nobody
        elif policy.rule != "anytime":
            assert set(here.exits.tolist()) == {0, 1, 2}
    assert len(told) == len(POLICIES)


async def test_an_anytime_answer_leaves_where_the_time_left_is_short(gated: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, gated, 0, address, policy="anytime") as device,
        AsyncClient(device.listen) as client,
    ):
        short = await client.infer(IMAGES[0], deadline_s=9.0)
        long = await client.infer(IMAGES[0], deadline_s=60.0)
    assert (short.exit, short.degraded, long.exit) == (0, None, 2)
    assert len(cloud.samples) == 1


async def test_a_run_goes_up_as_two_bytes_and_every_one_is_counted(gated: Path) -> None:
    cloud = ScriptedTier(lambda _: answer())
    image = toy.pixels((0, 1, 0))
    moved = {}
    async with (
        scripted(cloud) as address,
        running(Tier.DEVICE, gated, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        # The first of each brings the policy's name; the number of the very first, 0, takes no bytes.
        for policy in ("margin", "usual", "patience") * 2:
            given = await client.infer(image, policy=policy)
            moved[policy] = given.trail[-1].bytes_up
    assert [one.exit_state for one in cloud.samples] == [b"", b"", b"\x01\x01"] * 2
    assert moved["patience"] - moved["usual"] == 4  # label, run, and the field's tag and length


async def test_the_answer_so_far_is_the_combined_one(gated: Path, bundle: Bundle) -> None:
    image = toy.pixels((2, 0, 0), (0, 2, 0), (0, 0, 9))
    async with (
        running(Tier.FOG, gated, 1, policy="mean") as fog,
        running(Tier.DEVICE, gated, 0, fog.listen, policy="mean") as device,
        AsyncClient(device.listen) as client,
    ):
        given = await client.infer(image)
    assert (given.exit, given.degraded) == (1, "unreachable")
    first, second = (np.exp(np.array(z) / 1.5) for z in ([2, 0, 0], [0, 2, 0]))
    by_hand = first / first.sum() / 3 + second / second.sum() * 2 / 3  # weights 1 and 2
    assert given.probabilities == pytest.approx(by_hand, abs=1e-3)


def f2(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


WRONG = {
    "none": ("mean", 1, b""),
    "too long": ("mean", 1, f2(0.5, 0.5, 0.0, 0.0)),
    "NaN": ("mean", 1, f2(np.nan, 0.5, 0.5)),
    "no probabilities": ("mean", 1, f2(0.0, 0.0, 0.0)),
    "no logarithms": ("geometric", 1, f2(0.5, 0.0, 0.0)),
    "label that is no class": ("patience", 1, b"\x03\x01"),
    "run longer than the exits": ("patience", 1, b"\x00\x02"),
    "at the first exit": ("patience", 0, b"\x00\x01"),
    "where none is declared": ("usual", 1, b"\x00\x01"),
}
RIGHT = {"mean": f2(0.5, 0.25, 0.25), "geometric": f2(-1.0, 0.0, -2.0), "patience": b"\x01\x01"}


@pytest.mark.parametrize("last_stage", [2, -1])
@pytest.mark.parametrize("mistake", WRONG)
async def test_a_peers_wrong_state_is_named_and_the_stream_goes_on(
    gated: Path, mistake: str, last_stage: int
) -> None:
    policy, boundary, state = WRONG[mistake]
    codes = tensors(b"\0\0\0\0") if boundary else tensors(bytes(16))
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(running(Tier.CLOUD, gated, 2, policy=policy))
        tier = cloud
        if last_stage < 0:  # a tier that only passes samples on looks at their state as well
            fog = running(Tier.FOG, gated, last_stage, cloud.listen, policy=policy)
            tier = await stack.enter_async_context(fog)
        caller = await stack.enter_async_context(calling(tier.listen))
        wrong = sample(1, payload=codes, boundary=boundary, exit_state=state)
        right = sample(
            2, payload=tensors(b"\0\0\0\0"), boundary=1, exit_state=RIGHT.get(policy, b"")
        )
        _, after = await caller.ask(wrong, right)
        assert await caller.status(1) == ("INVALID_ARGUMENT", "exit_state")
        assert after.HasField("answer")


def test_a_policy_by_gates_needs_a_gate_at_every_exit_that_is_on(
    bundle: Bundle, scores: Path, tmp_path: Path
) -> None:
    ungated = load_bundle(scores).manifest
    gate = bundle.manifest.policy("gate")
    write_manifest(tmp_path, ungated.model_copy(update={"policies": (gate,)}))
    with pytest.raises(
        InvalidBundle, match="gate goes by the gate of exit 0, and stage 0 has none"
    ):
        load_bundle(tmp_path)
    off = ExitSetting(on=False)
    never = ExitPolicy(name="never", rule="gate", exits=(off, off, ExitSetting()))
    type(ungated).model_validate(ungated.model_dump() | {"policies": (never,)})


@pytest.mark.parametrize(
    ("gate", "message"), [("gate_7", "outputs"), (None, "outputs"), ("codes_1", "outputs")]
)
def test_a_stage_whose_gate_is_not_the_manifests_is_not_opened(
    bundle: Bundle, gate: str | None, message: str
) -> None:
    stages = list(bundle.manifest.network.stages)
    stages[0] = stages[0].model_copy(update={"gate": gate})
    network = bundle.manifest.network.model_copy(update={"stages": tuple(stages)})
    manifest = bundle.manifest.model_copy(update={"network": network})
    wrong = Bundle(bundle.folder, manifest, network.digest, bundle.held)
    with pytest.raises(InvalidBundle, match=message):
        open_session(wrong, 0)


def test_a_count_ties_where_two_classes_are_equally_likely(bundle: Bundle) -> None:
    patience = bundle.manifest.policy("patience")
    assert patience is not None
    images = np.stack([toy.pixels((1, 1, 0), (1, 0, 0)), toy.pixels((1, 0, 0), (1, 0, 0))])
    reference = run_stages(bundle, images, batch=2)
    assert ties(patience, reference).tolist() == [True, False]


def test_show_says_rule_and_combination(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(gated)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "  gate" in shown
    assert "  max-probability, exits combined (mean) with weights 1, 2, 3" in shown
