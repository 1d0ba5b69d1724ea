"""Traces of the user's own: what each format gives, and what is refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from offramp.errors import InvalidInput
from offramp.links.importing import Format, Quantity, read_trace

STEP_S = 0.1
HEADER = "Timestamp,Longitude,DL_bitrate,UL_bitrate,State,PINGAVG,PINGMIN"


def written(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_mahimahi_line_is_1500_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, "10\n20\n100\n150\n300\n")
    # 3, 1 and 1 packets of 12,000 bits in rows of 0.1 s; what falls on a row's end is in that row.
    rates = read_trace(path, "mahimahi", "rate_up_mbit", STEP_S)
    assert rates.tolist() == pytest.approx([0.36, 0.12, 0.12])


def test_opportunities_are_neither_lost_nor_made(tmp_path: Path) -> None:
    times = [k * 7 for k in range(1, 201)]  # 1,400 ms
    path = written(tmp_path, "\n".join(map(str, times)))
    for step_s in (0.02, 0.05, 0.1):
        rates = read_trace(path, "mahimahi", "rate_down_mbit", step_s)
        assert rates.sum() * step_s * 1e6 == pytest.approx(200 * 12_000)


@pytest.mark.parametrize("blank", [" ", "\t", ", "])
def test_a_sample_of_columns_holds_until_the_next(tmp_path: Path, blank: str) -> None:
    text = f"# seconds, Mbit/s\n5.0{blank}10\n5.2{blank}20\n5.4{blank}0\n"
    rates = read_trace(written(tmp_path, text), "columns", "rate_up_mbit", STEP_S)
    assert rates.tolist() == [10, 10, 20, 20, 0, 0]


GNETTRACK = f"""{HEADER}
2019.11.28_07.59.59,-8.4,1000,500,D,20,18
2019.11.28_07.59.59,-8.4,2000,600,D,-,-
2019.11.28_08.00.00,-8.4,3000,-,D,-,-
2019.11.28_08.00.01,-8.4,4000,700,D,30,25
"""


@pytest.mark.parametrize(
    ("quantity", "seconds"),
    [
        ("rate_down_mbit", [2.0, 3.0, 4.0]),  # of two lines of one second the later
        ("rate_up_mbit", [0.6, 0.6, 0.7, 0.7]),  # `-` is no sample
        ("round_trip_ms", [20.0, 20.0, 30.0, 30.0]),
    ],
)
def test_gnettrack_gives_rates_in_kbit_and_round_trips(
    tmp_path: Path, quantity: Quantity, seconds: list[float]
) -> None:
    found = read_trace(written(tmp_path, GNETTRACK), "gnettrack", quantity, STEP_S)
    assert found.tolist() == pytest.approx([value for value in seconds for _ in range(10)])


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("columns", "0 5\n1 5\n2 -3\n", r"trace:3: the value -3 is negative"),
        (
            "columns",
            "0 5\n1 5\n2 5\n9 5\n",
            r"trace:4: a gap of 7 s; samples are usually 1 s apart",
        ),
        ("columns", "0 5\n0 6\n", r"has not two samples at different times"),
        ("columns", "0 5\n\n1 5\n0 5\n", r"trace:4: the time is 1 s before the line above"),
        ("columns", "0 5\n1 fast\n", r"trace:2: 'fast' is not a number"),
        ("columns", "0 5\n1 inf\n", r"trace:2: 'inf' is not finite"),
        ("columns", "0 5\n1 5 5\n", r"trace:2: has 3 columns"),
        ("columns", "0 5\n", r"has not two samples"),
        ("columns", "", r"has not two samples"),
        ("mahimahi", "5\n4\n", r"trace:2: the time 4 ms comes after 5 ms"),
        ("mahimahi", "-5\n", r"trace:1: the time -5 ms is negative"),
        ("mahimahi", "1.5\n", r"trace:1: '1.5' is not a time in whole ms"),
        ("mahimahi", "1\n2\n", r"has no 100 ms of delivery opportunities"),
        ("mahimahi", "", r"has no 100 ms of delivery opportunities"),
        ("gnettrack", "Timestamp,Speed\n1,2\n", r"is not of G-NetTrack: no column UL_bitrate"),
        ("gnettrack", "", r"no column Timestamp, UL_bitrate"),
        (
            "gnettrack",
            f"{HEADER}\n10:30,0,1,1,D,-,-\n",
            r"trace:2: the time '10:30' is not as 2019",
        ),
        (
            "gnettrack",
            GNETTRACK + "2019.11.28_08.00.02,-8.4,1,-7,D,-,-\n",
            r"trace:6: the value -0.007 is negative",
        ),
        (
            "gnettrack",
            GNETTRACK + "2019.11.28_08.05.00,-8.4,1,7,D,-,-\n",
            r"trace:6: a gap of 299 s",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(
    tmp_path: Path, kind: Format, text: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_trace(written(tmp_path, text), kind, "rate_up_mbit", STEP_S)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such file"):
        read_trace(tmp_path / "absent", "columns", "rate_up_mbit", STEP_S)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_trace(tmp_path / "binary", "columns", "rate_up_mbit", STEP_S)
    with pytest.raises(InvalidInput, match="a trace of format columns has no round trips"):
        read_trace(written(tmp_path, "0 5\n1 5\n"), "columns", "round_trip_ms", STEP_S)


def test_measured_traces_carry_as_many_bits_as_their_samples_say() -> None:
    data = os.environ.get("OFFRAMP_DATA")
    if not data:
        pytest.skip("OFFRAMP_DATA is not set")
    folder = Path(data) / "links"
    paths = [path for path in folder.rglob("[45]g_trace_*") if path.is_file()]
    if not paths:
        pytest.skip(f"no traces in {folder}")
    for path in paths:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        told = {float(t): float(rate) for t, rate in lines}
        ends = [*list(told)[1:], max(told) + 1]
        sent = sum(rate * (end - t) for (t, rate), end in zip(told.items(), ends, strict=True))
        rates = read_trace(path, "columns", "rate_down_mbit", 0.05)
        assert 0.05 * rates.sum() == pytest.approx(sent)
