"""Connections that bring no call are counted; those that do are not, however many calls they bring."""

from __future__ import annotations

import asyncio
import logging

import pytest

from offramp.serving.access.handshakes import Handshakes
from offramp.serving.access.refusals import Refusals
from offramp.telemetry import TierMetrics


def counted(metrics: TierMetrics) -> float | None:
    labels = {"tier": "fog", "side": "downstream", "reason": "handshake"}
    return metrics.registry.get_sample_value("offramp_refusals_total", labels)


@pytest.mark.parametrize(
    ("begun", "heard", "refused"),
    [(1, "", 1), (1, "a", 0), (3, "a", 2), (3, "aaa", 2), (3, "ab", 1), (2, "abc", 0)],
)
async def test_what_is_counted_is_the_connections_less_those_heard_of(
    begun: int, heard: str, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    metrics = TierMetrics("fog", ())
    handshakes = Handshakes(Refusals(metrics, "downstream"), patience_s=0.0)
    for _ in range(begun):
        await asyncio.to_thread(handshakes.begun)
    for peer in heard:
        handshakes.heard(peer)
    handshakes.review()
    handshakes.review()
    assert counted(metrics) == refused
    assert len(caplog.records) == min(refused, 1)  # the others are told of in a later line


async def test_who_has_patience_left_is_waited_for() -> None:
    metrics = TierMetrics("fog", ())
    handshakes = Handshakes(Refusals(metrics, "downstream"), patience_s=60.0)
    handshakes.begun()
    await asyncio.sleep(0)
    handshakes.review()
    assert counted(metrics) == 0
