"""Inputs that are picked never to exit early (as of DeepSloth, Hong et al. 2021), and what the counters say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.serving.tiers import Program, scrape

from offramp import Client
from offramp.data import fashion_mnist

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"
Counted = dict[tuple[str, str], float]


def sure_share(before: Counted, after: Counted) -> float:
    """What recording.yml computes as tier_instance:offramp_sure:share5m, of the time between."""

    def grown(name: str, *labels: str) -> float:
        return sum(
            value - before[key]
            for key, value in after.items()
            if key[0] == name and (not labels or key[1] in labels)
        )

    asked = grown("offramp_requests_total", 'outcome="answered"', 'outcome="degraded"')
    return (grown("offramp_exits_total") - grown("offramp_degraded_total")) / asked


def test_a_device_that_gets_inputs_which_never_exit_is_sure_of_less_than_half_of_what_it_was(
    start: Callable[..., Program],
) -> None:
    bundle = EXAMPLE / "bundle"
    cloud = start("cloud", bundle)
    device = start("device", bundle, "--uplink.address", cloud.listen)
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)[:500]
    began = scrape(device.metrics)
    with Client(device.listen) as client:
        tiers = [client.infer(image).tier.name for image in images]
        ordinary = scrape(device.metrics)
        picked = images[np.array(tiers) != "DEVICE"]
        for _ in range(3):
            for image in picked:
                client.infer(image)
    before, during = sure_share(began, ordinary), sure_share(ordinary, scrape(device.metrics))
    assert 0.75 < before < 0.95
    assert (
        during < 0.5 * before
    )  # at which ExitsCollapse fires, see deploy/prometheus/tests/alerts.yml
    assert during < 0.02


def test_a_device_without_its_fog_is_as_sure_as_before(start: Callable[..., Program]) -> None:
    device = start("device", EXAMPLE / "bundle", "--uplink.address", "127.0.0.1:9")
    images = fashion_mnist.load("test", EXAMPLE).images.reshape(-1, 28, 28, 1)[:200]
    began = scrape(device.metrics)
    with Client(device.listen) as client:
        degraded = sum(client.infer(image).degraded is not None for image in images)
    share = sure_share(began, scrape(device.metrics))
    assert degraded > 0
    assert share == 1 - degraded / len(images)
