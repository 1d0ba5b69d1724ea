"""`offramp link run`, `set` and `validate` as programs, and the figures that `validate` judges by."""

from __future__ import annotations

import json
import logging
import math
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.links.relaying import steady
from tests.serving.tiers import wait_for

from offramp.cli import main
from offramp.links.engines.choosing import PROBES
from offramp.links.timeline import Loss, State
from offramp.links.validation import checks, datagrams, rehearsals
from offramp.links.validation.session import Report

LINK = [sys.executable, "-m", "offramp.cli", "link"]


@contextmanager
def program(control: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`link run` with these flags, once it answers; its log is read from stderr at the end."""
    command = [*LINK, "run", "--control", str(control), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: control.exists() or process.poll() is not None)
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_a_link_runs_is_changed_and_stops_on_sigterm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control, file = tmp_path / "control", tmp_path / "line.csv"
    steady(name="mine").write(file)
    port = free_port()
    flags = ["--timeline", str(file), "--listen", "127.0.0.1:0", "--target", "127.0.0.1:9"]
    with program(control, *flags, "--engine", "stream", "--metrics-port", str(port)) as process:
        assert main(["link", "set", "--control", str(control)]) == 0
        assert "mine (estimate, seed 0), engine stream" in capsys.readouterr().out
        assert main(["link", "set", "--control", str(control), "--profile", "wan-region"]) == 0
        assert main(["link", "set", "--control", str(control), "--cut", "--json"]) == 0
        status = json.loads(capsys.readouterr().out.split("\n", 3)[3])
        assert (status["profile"], status["cut"]) == ("wan-region", True)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            shown = page.read().decode()
        assert 'offramp_link_state{direction="down"} 1.0' in shown
        assert main(["link", "set", "--control", str(control), "--restore"]) == 0
        assert main(["link", "set", "--control", str(control), "--profile", "wan-regoin"]) == 2
        assert "profile: there is no 'wan-regoin'; near: wan-region" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "stopped" in (process.stderr.read() if process.stderr else "")
    assert not control.exists()


def bad(flag: str, value: str) -> list[str]:
    flags = {"--profile": "lte", "--listen": "127.0.0.1:0", "--target": "127.0.0.1:9"}
    return ["link", "run", *(word for pair in {**flags, flag: value}.items() for word in pair)]


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Whatever the program makes of the logging of this process ends with the test, as its standard error does."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--profile", "5g-nsa", "profile: there is no '5g-nsa'; near: 5g-nsa-"),
        ("--listen", "here", "--listen: 'here' is not HOST:PORT"),
        ("--target", "no.such.host.invalid:1", "--target: 'no.such.host.invalid' does not resolve"),
        ("--metrics-port", "70000", "--metrics-port: 70000 is no port"),
        ("--listen", "192.0.2.77:1", "listen: 192.0.2.77:1: "),
        ("--control", "/no/such/folder/socket", "control: cannot listen on /no/such/folder/socket"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, message: str
) -> None:
    assert main([*bad(flag, value), "--engine", "stream"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"offramp: {message}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "3"], "--seconds: goes with --cut only"),
        (["--seed", "3", "--cut"], "--seed: goes with --profile only"),
        ([], "control: no link answers at"),
    ],
)
def test_set_refuses_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], message: str
) -> None:
    assert main(["link", "set", "--control", str(tmp_path / "none"), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"offramp: {message}")


# --- validate -----------------------------------------------------------------------------------


def test_a_round_trip_is_judged_less_the_bare_path() -> None:
    rows, bare = np.full(100, 0.020), np.full(50, 0.001)
    median, tail = checks.round_trip(rows, np.full(100, 0.0215), bare)
    assert (median.measured, median.expected) == pytest.approx((20.5, 20))
    assert (median.low, median.high) == pytest.approx((19.4, 20.6))  # 3 % is above 0.3 ms
    assert (tail.low, tail.high) == pytest.approx((18, 22))
    assert median.passed
    assert tail.passed
    assert not checks.round_trip(rows, np.full(100, 0.0217), bare)[0].passed


def test_goodput_is_judged_from_95_to_101_percent() -> None:
    check = checks.goodput("up", 100, 0.965, 92)
    assert (check.low, check.high) == pytest.approx((0.95 * 96.5, 1.01 * 96.5))
    assert check.passed
    assert not checks.goodput("up", 100, 0.965, 98).passed


def test_an_outage_may_be_10_ms_off_and_a_call_40_ms_or_a_tenth() -> None:
    assert checks.outage("hold", 0.3, 0.309).passed
    assert not checks.outage("hold", 0.3, 0.289).passed
    assert not checks.outage("hold", 0.3, math.nan).passed
    assert checks.held_call(1.0, 0.7, 0.765).passed
    assert not checks.held_call(1.0, 0.7, 0.775).passed
    assert checks.held_call(0.1, 0.07, 0.105).passed


def test_loss_in_bursts_has_wider_bounds() -> None:
    alone = checks.loss("up", Loss(0.0, 1.0, 0.01, 0.0), 10_000, 110)
    assert alone.high - alone.expected == pytest.approx(3 * (0.01 * 0.99 / 10_000) ** 0.5)
    bursts = checks.loss("up", Loss(0.01, 0.1, 0.0, 0.11), 10_000, 110)
    assert bursts.expected == pytest.approx(0.01)
    assert bursts.high > alone.high


def test_gaps_come_in_their_order() -> None:
    times = [0.0, 0.1, 0.5, 0.6, 1.6, 1.7, 1.9]
    assert checks.longest_gaps(times, 3) == pytest.approx([0.4, 1.0, 0.2])
    assert all(map(math.isnan, checks.longest_gaps([1.0], 2)))


def test_the_longest_loss_is_by_the_times_of_sending() -> None:
    sent = [n / 100 for n in range(10)]
    arrived = set(range(10)) - {2, 4, 5, 6, 7}
    assert datagrams.longest_loss_s(datagrams.Datagrams(sent, arrived, set())) == pytest.approx(
        0.03
    )


def test_outages_lie_where_they_are_said_to() -> None:
    shaped, outages = rehearsals.outages_only(steady(), State.HOLD, [0.1, 0.3], 1.0)
    assert [value for pair in outages for value in pair] == pytest.approx([1.0, 0.1, 2.1, 0.3])
    for start_s, length_s in outages:
        for t_s, state in ((-0.005, 0), (0.005, 1), (length_s - 0.005, 1), (length_s + 0.005, 0)):
            assert shaped.up.state[shaped.at(start_s + t_s)] == state


def test_a_rows_round_trip_is_that_of_the_rows_in_force() -> None:
    shaped = rehearsals.delays_only(steady(delay_ms=7))
    times = np.array([5.0, 5.2])
    assert rehearsals.rows_round_trip_s(shaped, 5.0, times, times) == pytest.approx([0.014, 0.014])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["lte", "--engine", "stream", "--seconds", "0"], "--seconds: 0 is not in 1 to 3600"),
        (["lte", "--engine", "stream", "--probes", "3"], "--probes: 3 is not in 100 to 100000"),
        (["lt", "--engine", "stream"], "profile: there is no 'lt'"),
    ],
)
def test_validate_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["link", "validate", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(PROBES["netem"]() is None, reason="netem works here")
def test_validate_does_not_fall_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link", "validate", "lte", "--engine", "netem"]) == 2
    assert "engine: netem does not work here" in capsys.readouterr().err


def test_a_report_passes_where_every_quantity_does() -> None:
    good, poor = (checks.outage("hold", 0.3, seconds) for seconds in (0.3, 0.5))
    assert Report(checks=[good]).passed
    assert not Report(checks=[good, poor]).passed
    assert [entry["passed"] for entry in Report(checks=[good, poor]).as_json()["checks"]] == [
        True,
        False,
    ]
