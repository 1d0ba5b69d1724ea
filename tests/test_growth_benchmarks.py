"""The benchmarks of overload, growth and fairness: their loads on real tiers, their conclusions from canned figures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from benchmarks import fairness, growth_figures, overload_figures
from benchmarks.devices import network
from benchmarks.devices.fleet import Fleet
from benchmarks.devices.loads import Closed, Open, Outcome, Window, answer_code, arrivals, named
from benchmarks.growth import figures
from tests.serving.tiers import running

from offramp.rpc import Tier

FOG, REFUSED = answer_code(Tier.FOG), answer_code(Tier.DEVICE, 3)
WINDOW = Window(100, 1.0, {"tier": 0.2, "fog": 0.9, "device": 0.3}, 0.1, 50, 20)
HOST = {"processor": "a processor", "server_core": 0, "load_core": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FOLDER", tmp_path)


def outcome(
    codes: list[int],
    took_ms: list[float],
    *,
    devices: list[int] | None = None,
    due_s: list[float] | None = None,
    began: float = 0.0,
) -> Outcome:
    return Outcome(
        np.array(devices or [0] * len(codes)),
        np.array(due_s or [2.0 + 0.01 * k for k in range(len(codes))]),
        np.array(took_ms) / 1e3,
        np.array(codes),
        0.001,
        WINDOW,
        began,
    )


def opened(*rates_hz: float, seconds: float = 2.0, seed: int = 1) -> Open:
    return Open(rates_hz=rates_hz, seconds=seconds, seed=seed, deadline_s=0.1)


def test_the_others_requests_are_due_at_the_same_times_with_and_without_the_flood() -> None:
    quiet, flood = arrivals(opened(10, 10, 10)), arrivals(opened(100, 10, 10))

    for device in (1, 2):
        assert np.array_equal(quiet[0][quiet[1] == device], flood[0][flood[1] == device])
    assert (np.diff(flood[0]) >= 0).all()
    assert flood[0].max() < 2.0
    assert (flood[1] == 0).sum() == pytest.approx(200, abs=60)


def test_every_request_of_a_fleet_in_a_closed_loop_has_an_answer() -> None:
    async def driven() -> Outcome:
        async with (
            running(Tier.DEVICE, network.tiny(), 0) as parts,
            Fleet(parts.listen, 3, network.numbers()) as fleet,
        ):
            await fleet.drive(Closed(in_flight=1, seconds=0.1), {})
            return await fleet.drive(Closed(in_flight=4, seconds=0.3, warm_s=0.1), {})

    found = asyncio.run(driven())

    assert set(found.codes.tolist()) == {answer_code(Tier.DEVICE)}
    assert sorted(set(found.devices.tolist())) == [0, 1, 2]
    assert len(found.codes) > 12
    assert 0 < found.window.results <= len(found.codes)
    assert found.window.messages_down > 0


@pytest.mark.parametrize(("together", "messages"), [(1, 8), (3, 3), (256, 1)])
def test_requests_that_wait_share_a_message_where_the_form_lets_them(
    together: int, messages: int
) -> None:
    async def driven() -> tuple[Outcome, int]:
        async with (
            running(Tier.DEVICE, network.tiny(), 0) as parts,
            Fleet(parts.listen, 1, network.numbers(together=together)) as fleet,
        ):
            found = await fleet.drive(Closed(in_flight=8, seconds=0.0), {})
            return found, fleet.streams[0].messages_up

    found, messages_up = asyncio.run(driven())

    assert found.answered.all()
    assert (len(found.codes), messages_up) == (8, messages)


def test_an_open_loop_goes_through_the_device_to_the_fog_and_a_refusal_is_counted() -> None:
    async def driven() -> tuple[Outcome, Outcome]:
        bundle = network.split(1)
        async with (
            running(Tier.FOG, bundle, 1) as fog,
            running(Tier.DEVICE, bundle, 0, fog.listen) as device,
            Fleet(device.listen, 2, network.images()) as fleet,
            Fleet(fog.listen, 1, network.codes()) as straight,
        ):
            load = Open(rates_hz=[50, 50], seconds=0.4, seed=1, deadline_s=2.0)
            through = await fleet.drive(load, {})
            fog.engine.drain()
            refused = await straight.drive(Closed(in_flight=1, seconds=0.0), {})
            return through, refused

    through, refused = asyncio.run(driven())

    assert set(through.codes.tolist()) == {FOG}
    assert len(through.codes) == len(
        arrivals(Open(rates_hz=[50, 50], seconds=0.4, seed=1, deadline_s=2.0))[0]
    )
    assert [named(code) for code in refused.codes.tolist()] == ["status 14"]
    assert not refused.answered.any()


def test_a_stream_that_ends_under_a_load_is_an_error() -> None:
    async def driven() -> None:
        async with running(Tier.DEVICE, network.tiny(), 0) as parts:
            fleet = Fleet(parts.listen, 1, network.numbers())
            await fleet.grow(1)
        try:
            await fleet.drive(Closed(in_flight=1, seconds=30.0), {})
        finally:
            await fleet.close()

    with pytest.raises(RuntimeError, match="a stream ended"):
        asyncio.run(driven())


def test_codes_are_said_in_words() -> None:
    assert [named(code) for code in (FOG, REFUSED, 0, -8)] == [
        "fog",
        "device, overloaded",
        "no result",
        "status 8",
    ]


def test_goodput_counts_what_the_fog_answered_within_the_deadline() -> None:
    found = overload_figures.of_overload(
        outcome([FOG, FOG, REFUSED, REFUSED, 0, -8], [20, 101, 2, 4, float("nan"), 1]),
        opened(3.0),
        [3, 9, 4],
    )

    assert found["goodput_hz"] == 0.5  # one in two seconds
    assert found["offered_hz"] == 3.0
    assert found["unanswered"] == 2
    assert found["excess_ms"]["p50"] == pytest.approx(3.0)
    assert found["ended"] == {"status 8": 1, "no result": 1, "device, overloaded": 2, "fog": 2}
    assert found["most_in_flight"] == 9


def test_recovery_is_the_first_quarter_second_that_is_as_before() -> None:
    before = outcome([FOG] * 4, [6, 6, 6, 7])
    due_s = [0.0, 0.1, 0.3, 0.4, 0.6, 0.7]
    after = outcome(
        [FOG, REFUSED, FOG, FOG, FOG, FOG], [6, 2, 30, 30, 7, 7], due_s=due_s, began=10.0
    )

    assert overload_figures.recovery_s(before, after, 9.9) == pytest.approx(0.7)
    never = outcome([FOG] * 2, [30, 30], due_s=[0.0, 0.1])
    assert overload_figures.recovery_s(before, never, 0.0) is None


def overloaded(goodput: float, recovery_s: float | None, p50_ms: float = 3.0) -> dict[str, Any]:
    one = {
        "offered_hz": 800.0,
        "goodput_hz": goodput * 400.0,
        "ended": {"fog": 7600, "device, overloaded": 8400},
        "unanswered": 0,
        "good_ms": {"p50": 60.0, "p99": 95.0},
        "excess_ms": {"p50": p50_ms, "p99": 90.0},
        "refused_ms": None,
        "late_ms": 1.2,
        "most_in_flight": 40,
        "load_core_share": 0.2,
        "tier_core_share": {"fog": 1.0, "device": 0.6},
    }
    return {"closed_hz": 400.0, "credits": one | {"recovery_s": recovery_s}, "ignoring": one}


def test_overload_is_judged_by_the_median_of_the_rounds_and_the_slowest_recovery() -> None:
    rounds = [overloaded(0.80, 0.2), overloaded(0.95, 0.1), overloaded(0.96, 0.3)]

    assert all(bar["holds"] for bar in overload_figures.bars(rounds, 256, 0.1))
    late = overload_figures.bars([*rounds, overloaded(0.95, None, 40.0)], 256, 0.1)
    assert [bar["what"] for bar in late if not bar["holds"]] == [
        "back to normal latency after, s, the slowest round"
    ]
    worse = overload_figures.bars([overloaded(0.7, 0.1, 40.0)], 256, 0.1)
    assert [bar["holds"] for bar in worse] == [False, False, True, False, True, True, True]


def test_the_section_on_overload_tells_every_round() -> None:
    rounds = [overloaded(0.95, 0.2)]
    found = {
        "machine": HOST,
        "rounds": rounds,
        "seconds": 20.0,
        "deadline_s": 0.1,
        "over": 2.0,
        "convolutions": 12,
        "closed_in_flight": 32,
        "bars": overload_figures.bars(rounds, 256, 0.1),
    }

    section = overload_figures.markdown({"command": "a command", "found": found})

    assert "| 0: through a device tier | 800 / 400 | 380 (0.95) |" in section
    assert "| 0: straight, credits ignored |" in section
    assert "not reached" not in section


def grown(cpu_ms: dict[str, float], idle_mb: tuple[float, float, float]) -> dict[str, Any]:
    def one(value: float) -> dict[str, float]:
        return {
            "cpu_ms": value,
            "a_second": 800.0,
            "core_share": 0.3,
            "in_a_message_up": 1.0,
            "in_a_message_down": 2.0,
        }

    devices = {size: one(cpu_ms[size]) for size in ("1", "16", "256")}
    in_flight = {size: one(cpu_ms[size]) for size in ("10", "100", "1000", "10000")}
    return {
        "meter": "by hand",
        "devices": devices,
        "devices_closed": devices,
        "in_flight": in_flight,
        "idle_pss_mb": dict(zip(("0", "256", "1024"), idle_mb, strict=True)),
    }


COSTS = {"1": 0.2, "16": 0.2, "256": 0.21, "10": 0.1, "100": 0.1, "1000": 0.1, "10000": 0.1}


def test_growth_compares_within_a_round() -> None:
    slower = {size: 2 * cost for size, cost in COSTS.items()}  # all of a round, and so no growth
    rounds = [grown(COSTS, (80.0, 90.24, 121.0)), grown(slower, (90.0, 100.24, 131.0))]

    assert growth_figures.growth(rounds, "devices", 256, 1) == pytest.approx(1.05)
    assert growth_figures.idle_kb(rounds, 256) == pytest.approx(40.0)
    assert growth_figures.idle_kb(rounds, 1024) == pytest.approx(40.04, abs=0.01)
    assert all(bar["holds"] for bar in growth_figures.bars(rounds))


def test_growth_over_a_tenth_or_a_large_device_breaks_its_bar() -> None:
    rounds = [grown(COSTS | {"256": 0.23, "10000": 0.12}, (80.0, 95.0, 121.0))]

    assert [bar["holds"] for bar in growth_figures.bars(rounds)] == [False, False, False]
    found = {
        "machine": HOST,
        "seconds": 4.0,
        "total_hz": 800.0,
        "all_in_flight": 256,
        "rounds": rounds,
        "bars": growth_figures.bars(rounds),
    }
    section = growth_figures.markdown({"command": "a command", "found": found})
    assert "| in flight, 10,000 | 0.120 [0.120 - 0.120] | 1.20 |" in section
    assert section.count("**not reached**") == 3


def test_a_load_with_a_request_unanswered_says_nothing_of_what_one_costs() -> None:
    assert figures(outcome([17, 17], [1, 1]))["cpu_ms"] == pytest.approx(2.0)
    with pytest.raises(RuntimeError, match="1 requests without"):
        figures(outcome([17, -8], [1, 1]))


def test_a_request_of_the_others_without_an_answer_took_its_deadline() -> None:
    codes, took_ms = [FOG, FOG, 0, -8], [500, 10, float("nan"), 1]

    found = fairness.of_others(outcome(codes, took_ms, devices=[0, 1, 1, 2]), 1.0)

    assert (found["requests"], found["unanswered"]) == (3, 2)
    assert found["p50_ms"] == pytest.approx(1000.0)
    assert found["first_ended"] == {"fog": 1}


def test_fairness_is_judged_for_a_flood_with_and_without_room() -> None:
    def figured(p99_ms: float) -> dict[str, Any]:
        return {
            "p50_ms": 2.0,
            "p99_ms": p99_ms,
            "unanswered": 0,
            "first_ended": {"fog": 90, "status 8": 10},
            "core_share": 0.6,
        }

    rounds = [
        {
            "below": {"quiet": figured(10.0), "flood": figured(11.0)},
            "above": {"quiet": figured(10.0), "flood": figured(13.0)},
        }
    ]

    judged = fairness.bars(rounds)

    assert [bar["holds"] for bar in judged] == [True, False, True]
    found = {
        "machine": HOST,
        "seconds": 8.0,
        "batch": 32,
        "capacity_hz": 900.0,
        "shares": fairness.KINDS,
        "rounds": rounds,
        "bars": judged,
    }
    section = fairness.markdown({"command": "a command", "found": found})
    assert "| 106% offered, with the flood | 2.0 [2.0 - 2.0] | 13.0 [13.0 - 13.0] |" in section
