"""What benchmarks/connections.py makes of its rounds, and the frames of its attackers."""

from __future__ import annotations

from typing import Any

from benchmarks import connections
from benchmarks.hostile import frames
from benchmarks.serving.machine import machine


def part(p99_ms: float, unanswered: int = 0) -> dict[str, float]:
    return {"requests": 600, "unanswered": unanswered, "p50_ms": 4.0, "p99_ms": p99_ms}


def round_(p99_ms: float, *, handles_after: int = 20, most_mb: float = 250.0) -> dict[str, Any]:
    """Calm at 10 ms, and every attack at p99_ms."""
    under = {
        "coming": part(30.0),
        "there": part(p99_ms),
        "core_share": 0.3,
        "resident_mb": {"before": 110.0, "most": most_mb, "after": 240.0},
        "handles": {"before": 20, "most": 10_020, "after": handles_after},
        "back_s": 0.5,
        "limited": {},
        "attackers": {"opened": 100, "ended": 0, "beats": 0, "blocked": 0},
    }
    calm = {**part(10.0), "core_share": 0.2}
    return {"calm": calm, **dict.fromkeys(connections.ATTACKS, under)}


def broken(*rounds: dict[str, Any]) -> list[str]:
    return [one["what"] for one in connections.bars(rounds) if not one["holds"]]


def test_a_bar_is_of_the_median_ratio_and_the_flood_has_none() -> None:
    assert broken(round_(14.9), round_(30.0), round_(14.0)) == []
    over = broken(round_(15.1), round_(15.1), round_(9.0))
    assert len(over) == len(connections.ATTACKS) - len(connections.UNBARRED)
    assert not any("flood" in what for what in over)


def test_handles_kept_and_memory_that_grows_from_round_to_round_break_a_bar() -> None:
    assert broken(round_(10.0, handles_after=29)) == ["file handles not given back, at most"]
    assert broken(round_(10.0), round_(10.0, most_mb=280.0)) == [
        "most memory of the last round over that of the first"
    ]


def test_the_section_has_a_row_for_every_attack() -> None:
    rounds = [round_(14.0), round_(13.0)]
    found = {
        "machine": machine(0, 1, 0.5),
        "seconds": 6.0,
        "attacks": {
            name: {"connections": attack.connections, "beats_hz": attack.beats_hz}
            for name, attack in connections.ATTACKS.items()
        },
        "rounds": rounds,
        "bars": connections.bars(rounds),
    }
    text = connections.markdown({"command": "python -m benchmarks.connections", "found": found})
    assert all(name in text for name in connections.ATTACKS)
    assert "| 110 / 250 / 240 | 20 / 10,020 / 20 |" in text


def test_settings_and_pings_are_acknowledged_and_part_of_a_frame_is_kept() -> None:
    settings = frames.frame(frames.SETTINGS, b"\x00\x03\x00\x00\x00\x64")
    ping = frames.frame(frames.PING, b"01234567")
    acknowledged = frames.frame(frames.SETTINGS, flags=frames.ACK)
    said, rest = frames.answered(settings + acknowledged + ping + b"\x00\x00")
    assert said == acknowledged + frames.frame(frames.PING, b"01234567", flags=frames.ACK)
    assert rest == b"\x00\x00"
