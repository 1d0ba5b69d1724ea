"""When items are handed over, by an alarm and a clock that the test turns; and what an engine takes for itself."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from offramp.links import own_delay, probing
from offramp.links.engines import courier as courier_module
from offramp.links.engines.courier import Courier
from offramp.links.engines.curve import TimelineCurve
from offramp.links.engines.pipe import Delivery, Pipe
from offramp.links.timeline import Direction, State

WAKE_S = 0.0001  # what the system takes from an alarm's time to the call


class Clock:
    """An alarm that rings late by WAKE_S, and the time."""

    def __init__(self) -> None:
        self.now_s, self.at_s = 0.0, inf
        self.ring: Callable[[], None] = lambda: None
        self.rings = 0

    def set(self, at_s: float) -> None:
        self.at_s = at_s

    def close(self) -> None:
        self.at_s = inf

    def turn_to(self, until_s: float) -> None:
        while (rings_s := max(self.now_s, self.at_s + WAKE_S)) <= until_s:
            self.now_s, self.at_s = rings_s, inf
            self.rings += 1
            self.ring()
        self.now_s = until_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def new_alarm(ring: Callable[[], None]) -> Clock:
        clock.ring = ring
        return clock

    monkeypatch.setattr(courier_module, "new_alarm", new_alarm)
    return clock


def carrying(clock: Clock) -> tuple[Pipe[int], Courier[int], list[float]]:
    """A pipe of 10 ms at 800 Mbit/s, its courier, and how late things came, below 0: early."""
    way = Direction(np.array([10.0]), np.array([800.0]), np.array([State.OPEN], np.uint8), 10**9)
    pipe: Pipe[int] = Pipe(TimelineCurve(way, 0.1), 10**9)
    late: list[float] = []

    def deliver(delivery: Delivery[int], late_s: float) -> None:
        assert late_s >= 0
        late.append(clock.now_s - delivery.due_s)

    found: Courier[int] = Courier(pipe, deliver)
    found._now = lambda: clock.now_s
    return pipe, found, late


async def test_an_alarm_that_rings_late_is_set_ahead(clock: Clock) -> None:
    pipe, courier, late = carrying(clock)
    for number in range(200):
        clock.turn_to(0.02 * number)
        pipe.push(number, 100, clock.now_s)
        courier.look()
    clock.turn_to(10.0)
    assert len(late) == 200
    assert late[0] == pytest.approx(WAKE_S, abs=1e-6)
    assert late[-1] == pytest.approx(0.0, abs=WAKE_S / 50)


async def test_a_fast_flow_does_not_ring_for_every_packet(clock: Clock) -> None:
    pipe, courier, late = carrying(clock)
    for number in range(2000):  # a packet every 15 us
        pipe.push(number, 1500, clock.now_s)
    courier.look()
    clock.turn_to(10.0)
    assert len(late) == 2000
    assert clock.rings < 150
    assert max(late) < 0.0005


async def test_a_hopeless_lateness_does_not_let_packets_out_early(clock: Clock) -> None:
    pipe, courier, late = carrying(clock)
    for number in range(100):
        clock.turn_to(0.02 * number)
        pipe.push(number, 100, clock.now_s)
        courier.look()
        clock.now_s += 0.015  # nobody looks for as long
    clock.turn_to(10.0)
    pipe.push(100, 100, clock.now_s)
    courier.look()
    clock.turn_to(20.0)
    assert late[-1] >= -0.0005


def test_what_the_engine_takes_is_left_out_of_the_delay() -> None:
    way = Direction(np.array([10.0]), np.array([8.0]), np.array([State.OPEN], np.uint8), 10**9)
    pipe: Pipe[int] = Pipe(TimelineCurve(way, 0.1), 10**9)
    pipe.own_delay_s = 0.004
    pipe.push(1, 1000, 0.0)
    assert pipe.next_due_s() == pytest.approx(0.007)
    pipe.own_delay_s = 0.5
    pipe.push(2, 1000, 1.0)
    assert pipe.release(2.0)[-1].due_s == pytest.approx(1.001)


async def test_an_engine_measures_itself() -> None:
    found_s = await own_delay.measure_own_delay_s("stream")
    assert 0 <= found_s <= 0.001
    assert await own_delay.measure_own_delay_s("netem") == 0


def test_probes_take_connections_in_turn() -> None:
    peer = probing.Peer()
    try:
        sent, turned, back = probing.round_trips(peer.endpoint, 10, 0.05, connections=3)
    finally:
        peer.close()
    assert sent.shape == (10,)
    assert (np.diff(sent) >= 0).all()
    assert (turned >= sent).all()
    assert (back >= turned).all()
