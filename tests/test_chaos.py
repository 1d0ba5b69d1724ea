"""The benchmarks that break things: a short one for real, and what they make of what they saw."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import faults, soak, store
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.load import Asked
from benchmarks.chaos.rows import Times, bars, markdown, row

from offramp.errors import DegradedReason, TierFailed
from offramp.rpc import Answer, Origin, SampleId, Tier
from offramp.rpc.stored import Stored

DEADLINE_S = 1.0


def nothing(_deployment: object) -> None:
    """What a fault does in these tests."""


FAULT = Fault("fog paused", "fog", nothing, nothing, frozenset({"unreachable", "deadline"}))
TIMES = Times(quiet=0.0, began=10.0, ended=20.0, watched=30.0, opened=12.0)


def asked(due: float, took_s: float = 0.01, reason: str = "", error: str = "") -> Asked:
    """One request of a load."""
    return Asked(0, due, took_s, "device", reason, error)


def test_two_thousand_requests_are_answered_once_each_while_tiers_and_link_fail() -> None:
    found = faults.measured(2_000, seed=3)
    assert all(one["holds"] for one in found["bars"]), found
    assert found["results"]["requests"] == 2_000
    assert sum(found["results"]["outcomes"].values()) == 2_000


def test_what_is_stored_is_answered_in_full_once_though_the_device_is_killed_meanwhile() -> None:
    found = store.measured(150, kills=1, seed=3, looked_at=200)
    assert all(one["holds"] for one in found["bars"]), found
    assert sum(found["outcomes"].values()) == 150
    assert found["store"]["answered"] >= found["store"]["told"] > 0
    record = {"command": "python -m benchmarks.store", "found": found}
    assert "**not reached**" not in store.markdown(record)


def test_a_store_that_loses_doubles_or_confuses_is_found_out() -> None:
    def answer(label: int, reason: DegradedReason | None = None) -> Answer:
        chances = np.eye(3, dtype=np.float32)[label]
        return Answer(label=label, probabilities=chances, exit=2, tier=Tier.CLOUD, degraded=reason)

    def kept(sequence: int, full: Answer | TierFailed | None) -> Stored:
        return Stored(
            id=SampleId(Origin("camera", 1), sequence),
            cursor=sequence + 1,
            stored_at=0.0,
            finished_at=None,
            tries=0,
            degraded=answer(0, "unreachable"),
            full=full,
        )

    results = [
        kept(0, answer(1)),
        kept(1, answer(2)),  # another one's
        kept(2, None),
        kept(3, TierFailed("", "no")),
        kept(3, answer(1)),
        kept(4, answer(1, "deadline")),
        kept(9, answer(1)),
    ]
    told = {SampleId(Origin("camera", 1), k): 0 for k in range(6)}
    found = store.compared(told, results, [answer(1)])
    assert found == {
        "told": 6,
        "in_store": 7,
        "answered": 5,
        "waiting": 1,
        "failed": 1,
        "lost": 1,
        "twice": 1,
        "untold": 1,
        "wrong": 2,
    }
    bars = store.bars({"store": found, "kills": [{"waiting": 0}, {"waiting": 3}]})
    assert [bar["found"] for bar in bars] == [1, 1, 2, 2, 1]


def test_a_fault_in_figures() -> None:
    seen = [asked(t, took_s=0.01) for t in range(10)]  # the quiet
    seen += [
        asked(11.0, took_s=0.9, reason="deadline"),
        asked(13.0, took_s=0.02, reason="unreachable"),
    ]
    seen += [asked(21.5, reason="unreachable"), asked(25.0)]
    found = row(FAULT, seen, TIMES, DEADLINE_S)
    assert (found["accepted"], found["answered"], found["wrong_reason"]) == (4, 4, 0)
    assert found["degraded"] == {"deadline": 1, "unreachable": 2}
    assert found["to_normal_s"] == pytest.approx(1.5)
    assert found["p99_after_opening_ms"] == pytest.approx(20.0)  # that of 13.0 alone
    assert found["longest_s"] == pytest.approx(0.9)
    assert all(bar["holds"] for bar in bars([found], DEADLINE_S))


@pytest.mark.parametrize(
    ("last", "broken"),
    [
        (asked(14.0, error="TierUnavailable"), "accepted requests without an answer"),
        (asked(14.0, reason="mismatch"), "degraded for another reason"),
        (asked(14.0, took_s=0.5, reason="deadline"), "added p99 once the breaker has opened"),
        (asked(11.0, took_s=1.5, reason="deadline"), "longest wait for an answer"),
        (asked(24.0, reason="unreachable"), "back to normal after the tier's return"),
    ],
)
def test_every_bar_can_break(last: Asked, broken: str) -> None:
    found = row(FAULT, [*(asked(t) for t in range(10)), last], TIMES, DEADLINE_S)
    judged = bars([found], DEADLINE_S)
    assert [bar["what"].split(",")[0] for bar in judged if not bar["holds"]] == [broken]
    record = {
        "command": "c",
        "found": {
            "rate_hz": 50,
            "deadline_s": 1,
            "quiet_s": 5,
            "fault_s": 10,
            "rows": [found],
            "bars": judged,
        },
    }
    assert "**not reached**" in markdown(record)


def test_growth_is_that_of_a_line_after_the_start() -> None:
    seconds = [float(t) for t in range(0, 1800, 5)]
    flat = [200.0 if t < 250 else 100.0 for t in seconds]  # what the start needs is no growth
    leaking = [100.0 + 10.0 * t / 1800 for t in seconds]
    assert soak.growth(seconds, flat) == pytest.approx(0.0, abs=1e-9)
    assert soak.growth(seconds, leaking) == pytest.approx(0.0820, abs=1e-3)
