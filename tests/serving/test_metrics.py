"""What a tier tells Prometheus: everything exists from the start, and the counts are exact."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import get_args

import grpc
from tests.serving.tiers import running, scrape
from tests.serving.toy import SURE_AT, pixels
from tests.serving.wire import ScriptedTier, refusal, scripted

from offramp.client import AsyncClient
from offramp.errors import DegradedReason
from offramp.rpc import Tier
from offramp.telemetry.metrics import Outcome


async def test_every_family_and_label_exists_before_the_first_event(scores: Path) -> None:
    async with running(Tier.FOG, scores, 1) as fog:
        seen = scrape(fog.metrics)
    zero = [
        *(("offramp_requests_total", f'outcome="{outcome}"') for outcome in get_args(Outcome)),
        *(("offramp_degraded_total", f'reason="{reason}"') for reason in get_args(DegradedReason)),
        *(("offramp_exits_total", f'exit="{k}"') for k in (0, 1)),
        *(
            ("offramp_wire_bytes_total", f'direction="{direction}",side="{side}"')
            for direction in ("up", "down")
            for side in ("upstream", "downstream")
        ),
        *(
            (f"offramp_{name}_count", f'stage="{k}"')
            for name in ("queue_seconds", "stage_seconds", "batch_size")
            for k in (0, 1)
        ),
        ("offramp_request_seconds_count", ""),
        ("offramp_hop_seconds_count", ""),
        ("offramp_in_flight", ""),
    ]
    assert {name: seen.get(name) for name in zero} == dict.fromkeys(zero, 0.0)
    (build,) = [labels for name, labels in seen if name == "offramp_build_info"]
    assert 'version="0.' in build
    (bundle,) = [labels for name, labels in seen if name == "offramp_bundle_info"]
    assert f'network="{fog.engine.held.bundle.digest}"' in bundle
    assert f'policy="{fog.engine.held.own_policy.id}"' in bundle
    assert 'name="scores"' in bundle


async def test_counts_are_those_of_what_happened(scores: Path) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(running(Tier.CLOUD, scores, 2))
        fog = await stack.enter_async_context(running(Tier.FOG, scores, 1, cloud.listen))
        device = await stack.enter_async_context(running(Tier.DEVICE, scores, 0, fog.listen))
        client = await stack.enter_async_context(AsyncClient(device.listen))
        images = [SURE_AT[0]] * 6 + [SURE_AT[1]] * 3 + [SURE_AT[2]] * 2 + [pixels((1, 0, 0))]
        images += [pixels((1, 0, 0))[:2]]  # of the wrong shape
        outcomes = [timed async for timed in client.infer_many(images)]
        local = await client.infer(SURE_AT[2], local=True)
        seen = {str(p.engine.tier): scrape(p.metrics) for p in (device, fog, cloud)}
    assert len(outcomes) == 13
    assert local.degraded == "policy"

    def counts(tier: str, family: str, label: str) -> dict[str, float]:
        return {
            labels.split('"')[1]: value
            for (name, labels), value in seen[tier].items()
            if name == family and labels.startswith(label) and value
        }

    requests, exits = "offramp_requests_total", "offramp_exits_total"
    assert counts("device", requests, "outcome") == {"answered": 12, "degraded": 1, "invalid": 1}
    assert counts("fog", requests, "outcome") == {"answered": 6}
    assert counts("cloud", requests, "outcome") == {"answered": 3}
    assert counts("device", exits, "exit") == {"0": 7}
    assert counts("fog", exits, "exit") == {"1": 3}
    assert counts("cloud", exits, "exit") == {"2": 3}
    assert counts("device", "offramp_degraded_total", "reason") == {"policy": 1}
    assert seen["device"]["offramp_request_seconds_count", ""] == 14
    assert seen["device"]["offramp_hop_seconds_count", ""] == 6
    assert seen["fog"]["offramp_batch_size_sum", 'stage="1"'] == 6
    assert {tier: page["offramp_in_flight", ""] for tier, page in seen.items()} == {
        "device": 0,
        "fog": 0,
        "cloud": 0,
    }


async def test_a_hop_that_was_not_made_is_not_timed(scores: Path) -> None:
    async with (
        running(Tier.DEVICE, scores, 0, "127.0.0.1:1", connected=False) as device,
        AsyncClient(device.listen) as client,
    ):
        assert (await client.infer(SURE_AT[2])).degraded == "unreachable"
        assert scrape(device.metrics)["offramp_hop_seconds_count", ""] == 0


async def test_trail_and_metrics_agree_on_the_bytes_of_a_hop_in_vain(scores: Path) -> None:
    above = ScriptedTier(lambda _: refusal(grpc.StatusCode.RESOURCE_EXHAUSTED))
    async with (
        scripted(above) as address,
        running(Tier.DEVICE, scores, 0, address) as device,
        AsyncClient(device.listen) as client,
    ):
        before = scrape(device.metrics)
        (leg,) = (await client.infer(SURE_AT[2])).trail
        seen = scrape(device.metrics)
    moved = {
        direction: seen[key] - before[key]
        for direction in ("up", "down")
        if (key := ("offramp_wire_bytes_total", f'direction="{direction}",side="upstream"'))
    }
    assert {"up": leg.bytes_up, "down": leg.bytes_down} == moved
    assert min(moved.values()) > 0
    assert seen["offramp_hop_seconds_count", ""] == 1
