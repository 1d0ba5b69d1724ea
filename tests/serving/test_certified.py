"""An answer is certified where its policy is, on this network, and nothing degraded it on the way."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.serving import toy
from tests.serving.tiers import running
from tests.serving.toy import SURE_AT
from tests.serving.wire import streaming

from offramp.bundle import load_bundle
from offramp.bundle.rewriting import rewrite, with_policy
from offramp.client import AsyncClient
from offramp.rpc import Origin, Sample, SampleId, TensorBytes, Tier
from offramp.wire import pack


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "scores", whose policy "usual" has a certificate and whose others have none."""
    bundle = load_bundle(toy.scores_bundle(tmp_path_factory.mktemp("bundles") / "certified"))
    policy = bundle.manifest.policies[0]
    certificate = toy.certificate_of(bundle, policy, risk="disagreement", samples=299)
    rewrite(bundle, lambda now: with_policy(now, policy, certificate, now.provenance))
    return bundle.folder


async def test_answers_of_a_certified_policy_are_certified_from_every_tier(certified: Path) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(running(Tier.CLOUD, certified, 2))
        fog = await stack.enter_async_context(running(Tier.FOG, certified, 1, cloud.listen))
        device = await stack.enter_async_context(running(Tier.DEVICE, certified, 0, fog.listen))
        client = await stack.enter_async_context(AsyncClient(device.listen))
        other = await stack.enter_async_context(AsyncClient(device.listen, policy="always"))
        answers = [await client.infer(image) for image in SURE_AT]
        uncertified = [await other.infer(image) for image in SURE_AT]
        local = [await client.infer(image, local=True) for image in SURE_AT[:2]]
    assert [(a.tier, a.certified) for a in answers] == [(tier, True) for tier in Tier]
    assert [a.certified for a in uncertified] == [False] * 3
    # A sure exit decides alike whether or not it was asked to stay; an unsure one did not decide.
    assert [(a.degraded, a.certified) for a in local] == [(None, True), ("policy", False)]


async def test_a_degraded_answer_is_never_certified(certified: Path) -> None:
    async with (
        running(Tier.DEVICE, certified, 0) as device,
        AsyncClient(device.listen) as client,
    ):
        unsure, sure = await client.infer(SURE_AT[2]), await client.infer(SURE_AT[0])
    assert (unsure.degraded, unsure.certified) == ("unreachable", False)
    assert (sure.degraded, sure.certified) == (None, True)


async def test_the_same_policy_without_a_certificate_is_not_certified(scores: Path) -> None:
    async with running(Tier.DEVICE, scores, 2) as device, AsyncClient(device.listen) as client:
        answers = [await client.infer(image) for image in SURE_AT]
    assert [a.certified for a in answers] == [False] * 3


async def test_what_came_without_names_is_certified_by_no_tier_that_it_reaches(
    certified: Path,
) -> None:
    """Who sent it from boundary 1 did not say how the exit before it decided."""
    bundle = load_bundle(certified)
    names = {"network": bundle.digest, "policy": bundle.manifest.policies[0].id}
    async with (
        running(Tier.CLOUD, certified, 2) as cloud,
        running(Tier.FOG, certified, 1, cloud.listen) as fog,
        streaming(fog.listen) as stream,
    ):
        for sure_at, codes in ((1, [0, 9, 0, 0, 0, 0, 9]), (2, [0, 1, 0, 0, 0, 0, 9])):
            payload = (TensorBytes(pack(np.array(codes, np.uint8), toy.CODES_1)),)
            for k, given in enumerate(({"network": "", "policy": ""}, names)):
                until = time.monotonic() + 20
                one = Sample(
                    id=SampleId(Origin("caller", sure_at), k),
                    boundary=1,
                    deadline=until,
                    payload=payload,
                    **given,
                )
                answer = (await stream.ask(one, until)).answer
                assert (answer.exit, answer.certified) == (sure_at, given is names)
