"""The section that benchmarks/int8.json becomes, and the bars that decide its exit code."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from benchmarks.int8 import bars, markdown


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def milliseconds(p50: float) -> dict[str, float]:
    return {"p50_ms": p50, "p5_ms": p50, "p95_ms": p50}


def network(digest: str) -> dict[str, Any]:
    return {
        "network": digest,
        "policy": {"accuracy": estimate(0.93), "leaving": [0.75, 0.25], "flops": 15e6},
        "certificate": {
            "epsilon": 0.01,
            "samples": 3000,
            "errors": 20,
            "risk": estimate(0.006),
            "holds": True,
        },
    }


def exit_pair(k: int) -> dict[str, Any]:
    return {
        "accuracy": estimate(0.9),
        "other_accuracy": estimate(0.902),
        "agreement": 0.995,
        "time": milliseconds(0.1 * (k + 1)),
        "other_time": milliseconds(0.2 * (k + 1)),
        "size_bytes": 100_000,
        "other_size_bytes": 300_000,
    }


FOUND: dict[str, Any] = {
    "bundle": "fashion-mnist",
    "images": 10_000,
    "method": "static",
    "deciding": 2000,
    "stages": [{"arrangement": "layers", "int8_layers": 6, "layers": 9}] * 2,
    "beside": {"other": "x", "other_network": "a", "exits": [exit_pair(0), exit_pair(1)]},
    "batch": 32,
    "batched": {name: [milliseconds(4.0)] * 2 for name in ("float32", "int8")},
    "networks": {"float32": network("a"), "int8": network("b")},
}


def test_the_page_is_of_the_numbers_alone() -> None:
    page = markdown({"command": "c", "found": FOUND | {"bars": bars(FOUND)}})
    assert (
        "| 0 | layers: 6 of 9 | 300 -> 100 | 0.200 -> 0.100 (2.00x) | 4.000 -> 4.000 (1.00x) |"
        in page
    )
    assert "| 0 | 90.20 [89.20, 91.20] | 90.00 [89.00, 91.00] | 99.50 |" in page
    # 0.75 of the images leave after 0.1 ms, the others after 0.1 + 0.2.
    assert "| int8 | 93.00 [92.00, 94.00] | 75.0, 25.0 | 15.0 | 0.150 | 20 of 3,000 |" in page
    assert "| 0.20 | at most 0.5 | reached |" in page
    assert "| 0.50 | below 1 | reached |" in page


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda found: found["beside"]["exits"][1]["accuracy"].update(value=0.89), "loss"),
        (lambda found: found["beside"]["exits"][0]["time"].update(p50_ms=0.2), "first_stage"),
        (lambda found: found["networks"]["int8"]["certificate"].update(holds=False), "certificate"),
    ],
)
def test_a_bar_that_is_broken_is_named(change: Any, broken: str) -> None:
    found = deepcopy(FOUND)
    change(found)
    judged = bars(found)
    assert [name for name, bar in judged.items() if not bar["holds"]] == [broken]
    page = markdown({"command": "c", "found": found | {"bars": judged}})
    assert "**not reached**" in page
