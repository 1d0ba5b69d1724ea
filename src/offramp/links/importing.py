"""Users' own traces as rows: what a file of each format says of a link, at a timeline's step.

format      a line                                     gives
mahimahi    ms at which 1,500 bytes may leave          a rate
columns     seconds, Mbit/s (blank or comma between)   a rate
gnettrack   CSV of G-NetTrack, a sample a second       a rate a direction; round trips (PINGAVG)

A sample holds until the next; loggers round their clocks, so two may have one time. What is wrong is refused
with its line, never repaired: a negative rate, a clock that runs backwards, and a gap, which could as well
be an outage as a logger that slept.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from offramp.errors import InvalidInput
from offramp.links.quantiles import Floats

Format = Literal["mahimahi", "columns", "gnettrack"]
FORMATS: tuple[Format, ...] = get_args(Format)
Quantity = Literal["rate_up_mbit", "rate_down_mbit", "round_trip_ms"]

_GAP = 5  # times the usual distance of two samples; loggers of phones skip two or three seconds at times
_PACKET_BITS = 1500 * 8
# The column of a quantity, and what one of its units is in ours. Source: Raca et al. 2020 (MMSys), kbit/s and ms.
_GNETTRACK: dict[Quantity, tuple[str, float]] = {
    "rate_up_mbit": ("UL_bitrate", 1e-3),
    "rate_down_mbit": ("DL_bitrate", 1e-3),
    "round_trip_ms": ("PINGAVG", 1.0),
}
_GNETTRACK_TIME = "%Y.%m.%d_%H.%M.%S"


class Sample(NamedTuple):
    """A value from a time on, and the line that says so."""

    line: int
    t_s: float
    value: float


def read_trace(path: Path, kind: Format, quantity: Quantity, step_s: float) -> Floats:
    """(R,) values of a quantity, a row every step_s, for as long as the trace lasts.

    Raises InvalidInput naming the file, and the line that is wrong.
    """
    if quantity == "round_trip_ms" and kind != "gnettrack":
        raise InvalidInput(str(path), f"a trace of format {kind} has no round trips")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind == "mahimahi":
                return _opportunities(path, file, step_s)
            samples = list(
                _columns(path, file) if kind == "columns" else _gnettrack(path, file, quantity)
            )
    except FileNotFoundError as exc:
        raise InvalidInput(str(path), "there is no such file") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    return _held(path, samples, step_s)


def _opportunities(path: Path, lines: Iterable[str], step_s: float) -> Floats:
    """A packet may leave at each time; the last time is the trace's length, as mahimahi replays it."""
    times_ms: list[int] = []
    for line, text in _filled(lines):
        try:
            time_ms = int(text)
        except ValueError as exc:
            raise _wrong(path, line, f"{text[:40]!r} is not a time in whole ms") from exc
        if time_ms < 0:
            raise _wrong(path, line, f"the time {time_ms} ms is negative")
        if times_ms and time_ms < times_ms[-1]:
            raise _wrong(path, line, f"the time {time_ms} ms comes after {times_ms[-1]} ms")
        times_ms.append(time_ms)
    step_ms = 1000 * step_s
    rows = int(times_ms[-1] / step_ms + 1e-9) if times_ms else 0
    if not rows:
        raise InvalidInput(str(path), f"has no {step_ms:g} ms of delivery opportunities")
    row = np.ceil(np.array(times_ms) / step_ms - 1e-9).astype(int).clip(1) - 1
    return np.bincount(row[row < rows], minlength=rows) * _PACKET_BITS / (step_s * 1e6)


def _columns(path: Path, lines: Iterable[str]) -> Iterator[Sample]:
    for line, text in _filled(lines):
        fields = text.replace(",", " ").split()
        if len(fields) != 2:
            raise _wrong(path, line, f"has {len(fields)} columns, not time and Mbit/s")
        yield Sample(line, *(_number(path, line, field) for field in fields))


def _gnettrack(path: Path, lines: Iterable[str], quantity: Quantity) -> Iterator[Sample]:
    """A line a second; `-` is no sample."""
    column, unit = _GNETTRACK[quantity]
    reader = csv.DictReader(lines)
    missing = {"Timestamp", column} - set(reader.fieldnames or ())
    if missing:
        raise InvalidInput(
            str(path), f"is not of G-NetTrack: no column {', '.join(sorted(missing))}"
        )
    for row in reader:
        text = (row[column] or "").strip()
        if text in ("", "-"):
            continue
        line = reader.line_num
        yield Sample(line, _second(path, line, row["Timestamp"]), unit * _number(path, line, text))


def _second(path: Path, line: int, text: str) -> float:
    try:
        # The time zone is not in the file; any will do, since only differences count.
        moment = datetime.strptime(f"{text} +0000", f"{_GNETTRACK_TIME} %z")
    except ValueError as exc:
        raise _wrong(path, line, f"the time {text!r} is not as 2019.11.28_07.27.57") from exc
    return moment.timestamp()


def _held(path: Path, samples: list[Sample], step_s: float) -> Floats:
    """Each sample holds until the next, the last one for the usual distance; of two at one time the later counts."""
    times = np.array([sample.t_s for sample in samples])
    values = np.array([sample.value for sample in samples])
    distances = np.diff(times)
    for sample, distance in zip(samples[1:], distances, strict=True):
        if distance < 0:
            raise _wrong(path, sample.line, f"the time is {-distance:g} s before the line above it")
    if not distances.any():
        raise InvalidInput(str(path), "has not two samples at different times")
    usual = float(np.quantile(distances[distances > 0], 0.5, method="lower"))
    for sample, distance in zip(samples[1:], distances, strict=True):
        if distance > _GAP * usual:
            what = f"a gap of {distance:g} s; samples are usually {usual:g} s apart"
            raise _wrong(path, sample.line, what)
    for sample in samples:
        if sample.value < 0:
            raise _wrong(path, sample.line, f"the value {sample.value:g} is negative")
    rows = max(1, round((times[-1] - times[0] + usual) / step_s))
    at = times[0] + step_s * (np.arange(rows) + 0.5)
    held: Floats = values[np.searchsorted(times, at, side="right") - 1]
    return held


def _filled(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for line, text in enumerate(lines, 1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.strip()


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError as exc:
        raise _wrong(path, line, f"{text[:40]!r} is not a number") from exc
    if not np.isfinite(value):
        raise _wrong(path, line, f"{text[:40]!r} is not finite")
    return value


def _wrong(path: Path, line: int, what: str) -> InvalidInput:
    return InvalidInput(f"{path}:{line}", what)
