"""A profile compiled: its marginals, its memory, its events; and the file that a timeline is kept in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.errors import InvalidInput
from offramp.links.compiling import Traces, compile_profile
from offramp.links.correlation import latent_correlation, value_correlation
from offramp.links.marginals import marginals
from offramp.links.profile import load_profile, profile_names
from offramp.links.quantiles import Quantiles
from offramp.links.timeline import Direction, Idle, Loss, State, Timeline, read_timeline

STEP_S = 0.05


def arrays(timeline: Timeline) -> list[Any]:
    ways = (timeline.up, timeline.down)
    return [a for way in ways for a in (way.delay_ms, way.rate_mbit, way.state)]


@pytest.mark.parametrize("name", profile_names())
def test_400_000_rows_have_the_marginals_and_the_memory_of_the_profile(name: str) -> None:
    profile = load_profile(name)
    timeline = compile_profile(profile, seed=7, duration_s=20_000, step_s=STEP_S)
    assert len(timeline.up.state) == 400_000
    for marginal in marginals(profile, timeline):
        assert marginal.distance < 0.02, marginal.name
        if marginal.wanted_correlation is not None:
            assert marginal.correlation == pytest.approx(marginal.wanted_correlation, abs=0.05)


def test_a_minute_has_the_marginals_too() -> None:
    profile = load_profile("5g-mmwave-walk")
    timeline = compile_profile(profile, seed=1, duration_s=60)
    assert max(marginal.distance for marginal in marginals(profile, timeline)) < 0.001


def test_both_ways_rise_and_fall_together_so_that_the_sum_keeps_its_quantiles() -> None:
    profile = load_profile("lte")
    timeline = compile_profile(profile, seed=1, duration_s=500)
    up, down = timeline.up.delay_ms, timeline.down.delay_ms
    assert up / (up + down) == pytest.approx(np.full(len(up), 0.6), abs=1e-4)
    assert np.quantile(up + down, 0.95) == pytest.approx(45.67, rel=0.01)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    profile = load_profile("5g-nsa-mid")
    one, again, other = (compile_profile(profile, seed=s, duration_s=120) for s in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(arrays(one), arrays(again), strict=True))
    assert not (one.up.delay_ms == other.up.delay_ms).all()


def test_the_latent_is_more_alike_than_its_values_and_by_how_much_is_undone() -> None:
    table = load_profile("lte").round_trip_ms.table
    assert value_correlation(table, 0.95) < 0.9
    assert value_correlation(table, latent_correlation(table, 0.95)) == pytest.approx(
        0.95, abs=1e-3
    )
    normal = Quantiles.of({0: 0, 100: 1})  # of a uniform table: 6 / pi * arcsin(phi / 2)
    assert value_correlation(normal, 0.5) == pytest.approx(6 / np.pi * np.arcsin(0.25), abs=1e-3)


def test_events_come_as_often_and_last_as_long_as_stated() -> None:
    timeline = compile_profile(load_profile("5g-sa-mid"), seed=2, duration_s=12_000)
    state = timeline.up.state
    assert (state == timeline.down.state).mean() > 0.97  # the rest: rates of 0 on one way
    drops = np.flatnonzero(np.diff((state == State.DROP).astype(int)) == 1)
    assert len(drops) == pytest.approx(0.05 * 200, abs=3 * np.sqrt(10))
    lost_s = (state == State.DROP).sum() * timeline.step_s
    assert 0.3 * len(drops) < lost_s < 10 * len(drops)


def test_an_event_shorter_than_a_row_lasts_a_row() -> None:
    timeline = compile_profile(load_profile("lte"), seed=2, duration_s=6000, step_s=0.1)
    open_rates = (timeline.up.rate_mbit > 0) & (timeline.down.rate_mbit > 0)
    held = ((timeline.up.state == State.HOLD) & open_rates).sum()
    assert held == pytest.approx(1.3 * 100, abs=3 * np.sqrt(130) + 10)


def test_a_rate_of_zero_holds() -> None:
    up = compile_profile(load_profile("5g-mmwave-walk"), seed=1, duration_s=600).up
    assert (up.rate_mbit == 0).mean() == pytest.approx(0.1, abs=0.002)
    assert (up.state[up.rate_mbit == 0] != State.OPEN).all()


def test_a_trace_takes_the_place_of_its_process_and_starts_again() -> None:
    profile, trace = load_profile("wan-region"), np.array([5.0, 0.0, 7.0])
    timeline = compile_profile(
        profile, seed=0, duration_s=0.25, traces=Traces(rate_up_mbit=trace, name="mine")
    )
    assert (timeline.name, timeline.kind) == ("wan-region+mine", "trace")
    assert timeline.up.rate_mbit.tolist() == [5, 0, 7, 5, 0]
    assert timeline.up.state.tolist() == [0, 1, 0, 0, 1]
    assert set(timeline.down.rate_mbit.tolist()) == {1000.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: -1 is below 0"),
        ({"duration_s": 0}, "duration: 0 s"),
        ({"duration_s": float("nan")}, "duration: nan s"),
        ({"duration_s": 1e9}, "duration: 1e"),
        ({"step_s": 0.5}, "step: 500 ms is not in 20 to 100 ms"),
    ],
)
def test_what_cannot_be_compiled_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compile_profile(load_profile("lte"), **{"seed": 0, "duration_s": 10, **changes})


# --- the file -----------------------------------------------------------------------------------


def small() -> Timeline:
    up = Direction(
        np.array([1.5, 2.0, 3.25]),
        np.array([10.0, 0.0, 20.0]),
        np.array([0, 1, 2], np.uint8),
        1000,
        Loss(0.1, 0.5, 0.0, 1.0),
    )
    idle = Idle(10.0, Quantiles.of({0: 1, 99.9: 2, 100: 3}))
    return Timeline("toy", "estimate", 5, STEP_S, up, replace(up, loss=None), idle)


def test_a_row_is_in_force_for_a_step_and_the_end_is_followed_by_the_start() -> None:
    timeline = small()
    assert [timeline.at(t) for t in (0, 0.049, 0.05, 0.1, 0.149, 0.15, 3 * 0.15 + 0.06)] == [
        0, 0, 1, 2, 2, 0, 1,
    ]  # fmt: skip
    assert timeline.duration_s == pytest.approx(0.15)


@pytest.mark.parametrize(
    "made", [small, lambda: compile_profile(load_profile("lte"), seed=1, duration_s=30)]
)
def test_a_timeline_read_is_the_one_written(made: Any, tmp_path: Path) -> None:
    timeline, path = made(), tmp_path / "timeline.csv"
    timeline.write(path)
    read = read_timeline(path)
    assert all((a == b).all() for a, b in zip(arrays(timeline), arrays(read), strict=True))
    for name in ("name", "kind", "seed", "step_s"):
        assert getattr(read, name) == getattr(timeline, name)
    assert (read.up.loss, read.down.loss) == (timeline.up.loss, timeline.down.loss)
    assert read.idle is not None
    assert timeline.idle is not None
    assert read.idle.delay_ms.percentiles == timeline.idle.delay_ms.percentiles
    read.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


def test_other_tools_can_read_the_rows(tmp_path: Path) -> None:
    small().write(tmp_path / "t.csv")
    table = np.genfromtxt(tmp_path / "t.csv", delimiter=",", names=True, skip_header=1)
    assert table["t_s"].tolist() == [0, 0.05, 0.1]
    assert table["delay_up_ms"].tolist() == [1.5, 2.0, 3.25]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# {", "{", "is no timeline"),
        ('"kind": "estimate"', '"kind": "guess"', "kind: "),
        ('"step_s": 0.05', '"step_s": 0', "step_s: "),
        ('"enter": 0.1', '"enter": 1.1', "loss.enter: 1.1 is not in 0 to 1"),
        ("0.05,2,0,1", "0.05,2,x,1", "rows: "),
        ("0.05,2,0,1,", "0.05,2,0,3,", "state: "),
        ("0.05,2,0,1,", "0.05,2,0,0,", "rate_mbit: a row is open at rate 0"),
        ("0.05,2,0,1,", "0.05,-2,0,1,", "delay_ms: has a row that is negative"),
        ("0.05,2,0,1,", "0.05,nan,0,1,", "delay_ms: has a row that is negative or not finite"),
        ("0.05,2,0,1,2,0,1", "0.05,2,0,1,2,0", "rows: "),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "t.csv"
    small().write(path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        read_timeline(path)


def test_no_file_and_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such file"):
        read_timeline(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(InvalidInput, match="is no timeline"):
        read_timeline(tmp_path / "empty.csv")
    small().write(tmp_path / "t.csv")
    head = (tmp_path / "t.csv").read_text(encoding="utf-8").split("\n")[:2]
    (tmp_path / "t.csv").write_text("\n".join([*head, ""]), encoding="utf-8")
    with pytest.raises(InvalidInput, match="rows"):
        read_timeline(tmp_path / "t.csv")


def test_loss_in_the_long_run() -> None:
    assert Loss(0.1, 0.4, 0.0, 1.0).mean == pytest.approx(0.2)
    assert Loss(0.1, 0.4, 0.5, 1.0).mean == pytest.approx(0.6)
    with pytest.raises(InvalidInput, match="no state is ever left"):
        Loss(0, 0, 0, 1)
