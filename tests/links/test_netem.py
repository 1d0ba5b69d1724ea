"""What tc is told: by hand, and by tc itself, which reads the lines whether or not its kernel has the queue."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.links.relaying import relaying, steady, through

from offramp.errors import InvalidSettings
from offramp.links.engines.choosing import PROBES, choose
from offramp.links.engines.link import Row
from offramp.links.engines.namespace import Namespace
from offramp.links.engines.netem import Shape, add_lines, change_lines, jitter_table, netem, tbf
from offramp.links.timeline import Direction, Loss, State

OPEN = Row(0.015, 50 * 125_000, State.OPEN)
HELD = Row(0.015, 0.0, State.HOLD)
DROPPING = Row(0.015, 0.0, State.DROP)
LOSSY = Shape(300_000, 1500, Loss(0.001, 0.2, 0.0, 0.5), has_table=True)
PLAIN = Shape(300_000, 1500, None, has_table=False)

UNKNOWN = "Error: Specified qdisc kind is unknown."
reason = PROBES["netem"]()
needs_tc = pytest.mark.skipif(shutil.which("tc") is None, reason="no tc here (package iproute2)")


def varied(delays: list[float]) -> Direction:
    rows = len(delays)
    return Direction(np.array(delays), np.ones(rows), np.zeros(rows, np.uint8), 1000)


def test_a_row_as_commands() -> None:
    delay, rate = add_lines("veth0", OPEN, LOSSY)
    assert delay == (
        "qdisc add dev veth0 root handle 1: netem limit 1000 delay 15000us 50us distribution offramp"
        " loss gemodel 0.1% 20% 50% 0%"
    )
    assert rate == (
        "qdisc add dev veth0 parent 1:1 handle 10: tbf rate 50000000bit burst 6250b limit 300000b"
    )
    assert change_lines("veth0", OPEN, PLAIN)[0] == (
        "qdisc change dev veth0 root handle 1: netem limit 1000 delay 15000us"
    )


def test_the_limit_is_above_what_can_be_on_its_way() -> None:
    # 1 Gbit/s for 100 ms is 12.5 MB; twice that, and the queue, in packets of 1500 bytes
    words = netem(Row(0.1, 125e6, State.OPEN), PLAIN).split()
    assert int(words[2]) == -(-(2 * 12_500_000 + 300_000) // 1500)


def test_a_hold_is_next_to_no_rate_and_a_drop_is_all_loss() -> None:
    assert "rate 8bit " in tbf(HELD, LOSSY)
    assert "loss 100%" not in netem(HELD, LOSSY)
    assert netem(DROPPING, LOSSY).endswith("loss 100%")


def test_the_table_has_the_moments_of_the_rows_changes() -> None:
    random = np.random.default_rng(2)
    delays = np.cumsum(random.normal(0, 3, 5000)) + 500
    text = jitter_table(varied(delays.tolist()))
    assert text is not None
    values = np.array(text.split("\n", 1)[1].split(), int)
    assert values.shape == (4096,)
    assert abs(values.mean()) < 0.01 * 8192
    assert abs(values.std() / 8192 - 1) < 0.01
    assert np.abs(values).max() <= 32_768


def test_a_constant_delay_has_no_table() -> None:
    assert jitter_table(varied([7.0, 7.0, 7.0])) is None
    assert jitter_table(varied([7.0])) is None


def said(line: str, tables: Path) -> str:
    """What tc says to a line, with its tables in that folder."""
    done = subprocess.run(
        ["tc", *line.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TC_LIB_DIR": str(tables)},
    )
    return done.stderr.strip()


@needs_tc
@pytest.mark.skipif(UNKNOWN not in str(reason), reason=f"only where netem is unknown: {reason}")
@pytest.mark.parametrize("row", [OPEN, HELD, DROPPING], ids=["open", "hold", "drop"])
def test_tc_parses_our_lines_and_our_table(tmp_path: Path, row: Row) -> None:
    table = jitter_table(varied([10.0, 12.0, 11.0, 15.0, 10.0]))
    (tmp_path / "offramp.dist").write_text(str(table))
    assert said(add_lines("lo", row, LOSSY)[0], tmp_path) == UNKNOWN


@needs_tc
@pytest.mark.parametrize("content", [None, "not a number\n"], ids=["no table", "no numbers"])
def test_tc_refuses_a_table_that_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "offramp.dist").write_text(content)
    # tc fails before it asks the kernel; at a table with no numbers it does so without a word
    assert UNKNOWN not in said(add_lines("lo", OPEN, LOSSY)[0], tmp_path)


@needs_tc
@pytest.mark.skipif(UNKNOWN not in str(reason), reason=f"tried where namespaces work: {reason}")
def test_the_kernel_takes_every_row_of_the_token_bucket() -> None:
    namespace = Namespace()
    try:
        for verb, row in (("add", OPEN), ("change", HELD), ("change", OPEN), ("change", DROPPING)):
            line = f"tc qdisc {verb} dev lo root handle 1: {tbf(row, PLAIN)}"
            namespace.run(line.split())
    finally:
        namespace.close()


@pytest.mark.skipif(reason is None, reason="netem works here")
def test_netem_by_name_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidSettings, match="engine: netem does not work here: "):
        choose("netem")


@pytest.mark.skipif(reason is not None, reason=f"no netem here: {reason}")
async def test_bytes_cross_the_kernels_queues() -> None:
    payload = bytes(range(256)) * 500
    async with relaying("netem", steady()) as relay:
        assert await through(await relay.connect(), payload) == payload
