"""The queue of one direction, on a clock that the test turns."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest

from offramp.links.engines.curve import Curve, ShutCurve, TimelineCurve
from offramp.links.engines.idle import Radio
from offramp.links.engines.link import Abilities, Link
from offramp.links.engines.loss import GilbertElliott
from offramp.links.engines.pipe import Pipe
from offramp.links.quantiles import Quantiles
from offramp.links.timeline import Direction, Idle, Loss, State, Timeline

OPEN, HOLD, DROP = State.OPEN, State.HOLD, State.DROP


def direction(
    delay_ms: list[float], rate_mbit: list[float], state: list[int] | None = None, **more: object
) -> Direction:
    rows = len(delay_ms)
    states = np.array(state or [OPEN] * rows, np.uint8)
    settings: dict[str, object] = {"queue_bytes": 10**9, **more}
    return Direction(np.array(delay_ms, float), np.array(rate_mbit, float), states, **settings)  # type: ignore[arg-type]


def constant(delay_ms: float = 10, rate_mbit: float = 8) -> Direction:
    return direction([delay_ms], [rate_mbit])  # 8 Mbit/s: a byte a microsecond


def curve(way: Direction, step_s: float = 0.1, *, lossless: bool = False) -> TimelineCurve:
    return TimelineCurve(way, step_s, lossless=lossless)


def drained(pipe: Pipe[int], until_s: float = inf) -> dict[int, float]:
    """When each item was due, in the order of release, each released at the very moment at which it is due."""
    found = {}
    while (due := pipe.next_due_s()) < until_s:
        found |= {delivery.item: delivery.due_s for delivery in pipe.release(due)}
    return found


def test_a_packet_takes_its_time_on_the_wire_and_the_delay() -> None:
    pipe: Pipe[int] = Pipe(curve(constant()), 10**6)
    pipe.push(1, 1000, 5.0)
    pipe.push(2, 1000, 5.0)
    assert drained(pipe) == pytest.approx({1: 5.011, 2: 5.012})


def test_nothing_is_released_before_it_is_due() -> None:
    pipe: Pipe[int] = Pipe(curve(constant()), 10**6)
    pipe.push(1, 1000, 0.0)
    assert pipe.release(0.0109) == []
    assert [d.item for d in pipe.release(0.0111)] == [1]
    assert pipe.next_due_s() == inf


def test_a_packet_spans_rows_of_different_rates() -> None:
    # 0.1 s at 1e6 bytes/s, then at 2e6: 250,000 bytes need 0.1 s + 75,000 / 1e6 s more
    two = curve(direction([0, 0], [8, 16]))
    pipe: Pipe[int] = Pipe(two, 10**6)
    pipe.push(1, 250_000, 0.0)
    assert drained(pipe) == pytest.approx({1: 0.175})


def test_rows_start_again_at_the_end() -> None:
    two = curve(direction([0, 0], [8, 16]))
    assert two.served(0.4) == pytest.approx(600_000)
    assert two.when(600_000 + 50_000) == pytest.approx(0.45)


def test_a_falling_delay_does_not_reorder() -> None:
    pipe: Pipe[int] = Pipe(curve(direction([60, 10], [8000, 8000])), 10**6)
    pipe.push(1, 100, 0.099)
    pipe.push(2, 100, 0.101)
    pipe.push(3, 100, 0.190)
    due = drained(pipe)
    assert list(due) == [1, 2, 3]
    assert due == pytest.approx({1: 0.159, 2: 0.159, 3: 0.2}, abs=1e-4)


def test_bytes_on_their_way_do_not_fill_the_queue() -> None:
    pipe: Pipe[int] = Pipe(curve(constant(delay_ms=1000)), 3000)
    for millisecond in range(500):
        assert pipe.fits(1000, millisecond / 1e3)
        pipe.push(0, 1000, millisecond / 1e3)
    assert len(pipe) == 500
    assert pipe.backlog_bytes(0.4991) == pytest.approx(900)


def test_a_full_queue_has_no_room_until_it_has_eased() -> None:
    pipe: Pipe[int] = Pipe(curve(constant()), 3000)
    for _ in range(3):
        pipe.push(0, 1000, 0.0)
    assert not pipe.fits(1000, 0.0)
    assert pipe.eases_s(2000) == pytest.approx(0.001)
    assert pipe.fits(1000, 0.00101)


def test_a_packet_larger_than_the_queue_passes_when_it_is_empty() -> None:
    pipe: Pipe[int] = Pipe(curve(constant()), 100)
    assert pipe.fits(1500, 0.0)
    pipe.push(0, 1500, 0.0)
    assert not pipe.fits(1, 0.0)


def test_a_hold_delivers_nothing_and_then_everything_in_order_at_the_rate() -> None:
    # open 0.1 s, hold 0.3 s, open 0.1 s, delay 20 ms
    held = curve(direction([20] * 5, [8] * 5, [OPEN, HOLD, HOLD, HOLD, OPEN]))
    pipe: Pipe[int] = Pipe(held, 10**6)
    for item, at_s in enumerate([0.05, 0.095, 0.2, 0.201, 0.39]):
        pipe.push(item, 1000, at_s)
    due = drained(pipe)
    assert list(due) == [0, 1, 2, 3, 4]
    # 1 was on its way; 2, 3 and 4 leave one a millisecond from the hold's end on
    assert list(due.values()) == pytest.approx([0.071, 0.4, 0.421, 0.422, 0.423])


def test_an_outage_is_as_long_as_its_rows() -> None:
    states = [OPEN] * 10 + [HOLD] * 5 + [OPEN] * 10
    held = curve(direction([15] * 25, [80] * 25, states), step_s=0.05)
    pipe: Pipe[int] = Pipe(held, 10**6)
    for millisecond in range(1200):
        pipe.push(millisecond, 100, millisecond / 1e3)
    times = list(drained(pipe).values())
    gap = max(after - before for before, after in pairwise(times))
    assert gap == pytest.approx(0.25, abs=0.0015)


def test_a_drop_holds_what_it_had_and_a_lossless_curve_holds_all() -> None:
    rows = direction([0] * 3, [8] * 3, [OPEN, DROP, OPEN])
    assert curve(rows).state(0.15) == DROP
    assert curve(rows, lossless=True).state(0.15) == HOLD
    assert curve(rows, lossless=True).opens_s(0.15) == pytest.approx(0.2)


def test_against_a_walk_through_the_rows() -> None:
    """An independent reference: every packet served in small steps of time."""
    random = np.random.default_rng(5)
    rows, step_s = 12, 0.05
    states = random.choice([OPEN, OPEN, OPEN, HOLD], rows).tolist()
    states[0] = OPEN
    way = direction([0] * rows, random.uniform(1, 20, rows).tolist(), states)
    arrivals = np.sort(random.uniform(0, 2, 60))
    sizes = random.integers(60, 9000, 60)
    pipe: Pipe[int] = Pipe(curve(way, step_s), 10**9)
    for item, (at_s, size) in enumerate(zip(arrivals, sizes, strict=True)):
        pipe.push(item, int(size), float(at_s))

    tick_s, now_s, expected = 2e-5, 0.0, []
    for at_s, size in zip(arrivals, sizes, strict=True):
        now_s, left = max(now_s, at_s), float(size)
        while left > 0:
            row = int(now_s / step_s + 1e-9) % rows
            left -= tick_s * way.rate_mbit[row] * 125_000 * (states[row] == OPEN)
            now_s += tick_s
        expected.append(now_s)
    due = drained(pipe)
    assert list(due) == list(range(60))
    assert np.allclose(list(due.values()), expected, atol=0.002)


def test_a_switch_loses_nothing_and_reorders_nothing() -> None:
    pipe: Pipe[int] = Pipe(curve(constant(delay_ms=50, rate_mbit=8)), 10**6)
    for item in range(100):
        pipe.push(item, 1000, 0.0)
    early = drained(pipe, until_s=0.0705)
    backlog = pipe.backlog_bytes(0.0705)
    pipe.follow(TimelineCurve(constant(delay_ms=5, rate_mbit=80), 0.1, 0.0705), 500, 0.0705)
    assert pipe.backlog_bytes(0.0705) == pytest.approx(backlog)
    late = drained(pipe)
    assert [*early, *late] == list(range(100))
    # 70.5 ms: 70 have left; the last of them is across at 120 ms, and by then the other 30 are too
    assert late[99] == pytest.approx(0.12, abs=1e-6)


def test_what_a_cut_keeps_comes_out_when_it_is_restored() -> None:
    open_curve: Curve = curve(constant(delay_ms=10))
    pipe: Pipe[int] = Pipe(open_curve, 10**6)
    pipe.push(0, 1000, 0.0)
    pipe.follow(ShutCurve(open_curve, inf), 10**6, 0.005)
    pipe.push(1, 1000, 0.006)
    assert pipe.next_due_s() == inf
    assert pipe.release(100.0) == []
    pipe.follow(open_curve, 10**6, 100.0)
    assert drained(pipe) == pytest.approx({0: 100.0, 1: 100.011})


def test_a_cut_with_an_end_restores_itself() -> None:
    open_curve: Curve = curve(constant(delay_ms=10))
    pipe: Pipe[int] = Pipe(ShutCurve(open_curve, 2.0), 10**6)
    pipe.push(0, 1000, 1.0)
    assert pipe.backlog_bytes(1.9) == 1000
    assert drained(pipe) == pytest.approx({0: 2.011})


def test_a_link_that_never_opens_delivers_nothing() -> None:
    pipe: Pipe[int] = Pipe(curve(direction([1, 1], [0, 0], [HOLD, HOLD])), 10**6)
    pipe.push(0, 100, 0.0)
    assert pipe.next_due_s() == inf


# --- the two directions together ----------------------------------------------------------------


def timeline(way: Direction, idle: Idle | None = None) -> Timeline:
    return Timeline("test", "estimate", 3, 0.1, way, way, idle)


LOSSY, LOSSLESS = Abilities(1e9, lossless=False), Abilities(1e9, lossless=True)


def test_a_lossy_link_says_why_it_dropped() -> None:
    way = direction([0] * 2, [8] * 2, [OPEN, DROP], queue_bytes=1500)
    link: Link[int] = Link(timeline(way), 0.0, LOSSY)
    assert link.send("up", 0, 1500, 0.0) is None
    assert link.send("up", 1, 1500, 0.0) == "queue"
    assert link.send("up", 2, 100, 0.15) == "outage"
    assert link.send("up", 3, 100, 0.25) is None


def test_every_packet_is_delivered_or_dropped() -> None:
    loss = Loss(enter=0.05, leave=0.3, in_good=0.001, in_bad=0.5)
    way = direction([5] * 3, [4, 8, 2], [OPEN, OPEN, DROP], queue_bytes=20_000, loss=loss)
    link: Link[int] = Link(timeline(way), 0.0, LOSSY)
    fates = [link.send("down", item, 1200, item * 0.0012) for item in range(2000)]
    out = list(drained(link.pipes["down"]))
    assert out == [item for item, fate in enumerate(fates) if fate is None]
    assert {"loss", "queue", "outage", None} == set(fates)


def test_a_lossless_link_takes_everything() -> None:
    way = direction([0] * 2, [8] * 2, [DROP, OPEN], queue_bytes=10, loss=Loss(1, 0, 1, 1))
    link: Link[int] = Link(timeline(way), 0.0, LOSSLESS)
    assert {link.send("up", item, 1000, 0.0) for item in range(50)} == {None}
    assert len(drained(link.pipes["up"])) == 50


def test_a_rate_above_the_engines_limit_is_clipped_and_marked() -> None:
    link: Link[int] = Link(timeline(constant(rate_mbit=1000)), 0.0, Abilities(100, lossless=True))
    assert link.is_clipped("up")
    assert link.row("up", 0.0).rate_bytes_s == 100 * 125_000


def test_a_cut_is_over_whatever_timeline_is_in_force() -> None:
    link: Link[int] = Link(timeline(constant(delay_ms=10)), 0.0, LOSSY)
    link.cut(1.0)
    assert link.send("up", 0, 100, 1.5) == "outage"
    link.switch(timeline(constant(delay_ms=20)), 2.0)
    assert link.row("down", 2.0) == (0.02, 0.0, DROP)
    assert link.cut_until_s(2.0) == inf
    link.restore(3.0)
    assert link.row("down", 3.0) == (0.02, 1e6, OPEN)
    assert link.send("up", 0, 100, 3.0) is None


def test_a_sleeping_radio_delays_the_first_packet_of_either_direction() -> None:
    idle = Idle(5.0, Quantiles.of({0: 300, 100: 300}))
    link: Link[str] = Link(timeline(constant(delay_ms=10), idle), 0.0, LOSSLESS)
    link.send("up", "first", 1000, 1.0)
    link.send("up", "second", 1000, 1.1)
    link.send("down", "back", 1000, 1.2)
    assert [d.due_s for d in link.pipes["up"].release(9)] == pytest.approx([1.311, 1.312])
    assert [d.due_s for d in link.pipes["down"].release(9)] == pytest.approx([1.311])
    link.send("down", "awake", 1000, 6.0)
    assert link.pipes["down"].next_due_s() == pytest.approx(6.011)
    link.send("up", "asleep", 1000, 11.5)
    assert link.pipes["up"].next_due_s() == pytest.approx(11.811)


def test_a_radio_without_a_pause_is_always_awake() -> None:
    assert Radio(None, np.random.default_rng(0)).wakes_s(7.0) == 7.0


@pytest.mark.parametrize("loss", [Loss(0.01, 0.2, 0.001, 0.3), Loss(0.0, 1.0, 0.02, 0.0)])
def test_loss_is_its_mean_within_three_sigma(loss: Loss) -> None:
    packets = 60_000
    link_loss = GilbertElliott(loss, np.random.default_rng(11))
    lost = np.array([link_loss.loses() for _ in range(packets)])
    bad = loss.enter / (loss.enter + loss.leave)
    memory = 1 - loss.enter - loss.leave  # correlation of neighbouring states
    excess = bad * (1 - bad) * (loss.in_bad - loss.in_good) ** 2 * 2 * memory / (1 - memory)
    sigma = ((loss.mean * (1 - loss.mean) + excess) / packets) ** 0.5
    assert abs(lost.mean() - loss.mean) < 3 * sigma
