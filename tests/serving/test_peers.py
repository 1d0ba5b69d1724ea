"""The count of calls by peer, on a clock of the test's own."""

from __future__ import annotations

import pytest

from offramp.errors import TierUnavailable
from offramp.serving.peers import Peers
from offramp.serving.settings import Limits
from offramp.telemetry import TierMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def peers(clock: Clock, **limits: float) -> tuple[Peers, TierMetrics]:
    metrics = TierMetrics("fog", stages=(0,))
    return Peers(Limits.model_validate(limits), metrics, clock), metrics


def open_and_drop(found: Peers, name: str, times: int) -> int:
    """How many of so many streams were let in."""
    let_in = 0
    for _ in range(times):
        try:
            found.enter(name, is_stream=True)
        except TierUnavailable:
            continue
        found.leave(name)
        let_in += 1
    return let_in


def test_a_peer_may_open_256_streams_at_once_and_then_so_many_a_second() -> None:
    clock = Clock()
    found, metrics = peers(clock, streams_hz=10)
    assert open_and_drop(found, "a", 300) == 256
    assert open_and_drop(found, "b", 10) == 10  # another is not concerned
    clock.now += 2.0
    assert open_and_drop(found, "a", 300) == 20
    clock.now += 1_000.0
    assert open_and_drop(found, "a", 300) == 256
    refused = metrics.registry.get_sample_value(
        "offramp_limits_total", {"tier": "fog", "limit": "streams_hz"}
    )
    assert refused == 44 + 280 + 44


def test_unary_calls_have_no_rate() -> None:
    found, _ = peers(Clock(), streams_hz=1)
    for _ in range(1_000):
        found.enter("a", is_stream=False)
        found.leave("a")


def test_peers_that_have_gone_are_forgotten_and_those_that_hold_streams_are_not() -> None:
    found, _ = peers(Clock(), streams_per_peer=1)
    found.enter("stays", is_stream=True)
    for number in range(10_000):
        found.enter(f"comes and goes {number}", is_stream=True)
        found.leave(f"comes and goes {number}")
    assert len(found) <= 4_097
    with pytest.raises(TierUnavailable) as raised:
        found.enter("stays", is_stream=True)
    assert raised.value.reason == "overloaded"


def test_refusals_are_said_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    found, _ = peers(clock, streams_hz=0.001)
    open_and_drop(found, "10.0.0.1", 256 + 50)
    clock.now += 10.0
    open_and_drop(found, "10.0.0.1", 1)
    assert [record.getMessage() for record in caplog.records] == [
        "limits.streams_hz: refused a call of 10.0.0.1 (1 refused since the last such line)",
        "limits.streams_hz: refused a call of 10.0.0.1 (50 refused since the last such line)",
    ]
