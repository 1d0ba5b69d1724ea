"""What a link does, row by row: what an engine replays, any tool can read, and a run can keep beside its results.

row      0          1          2                      R-1 | 0 ...   (at the end it starts again)
up       delay, rate, state    device -> fog, the way of requests
down     delay, rate, state    fog -> device, the way of answers
         |<-step->|

The file is CSV: a first line `# {json}` with what holds for all rows, a line of column names, then rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offramp.errors import InvalidInput
from offramp.links.quantiles import Floats, Quantiles
from offramp.validation import first_flaw

Kind = Literal["measured", "target", "estimate", "trace"]

_FORMAT: Literal["offramp-timeline-1"] = "offramp-timeline-1"
_COLUMNS = (
    "t_s,delay_up_ms,rate_up_mbit,state_up,delay_down_ms,rate_down_mbit,state_down"  # in this order
)
_STATES = "0 open, 1 hold (the queue keeps what arrives), 2 drop (what arrives is lost)"


class State(IntEnum):
    """What happens to a packet in a row; where two events overlap, the greater holds."""

    OPEN = 0  # it passes, at the row's rate and delay
    HOLD = 1  # nothing is delivered; the queue keeps what it has and what arrives
    DROP = 2  # what arrives is lost


@dataclass(frozen=True, slots=True)
class Loss:
    """Gilbert-Elliott, a step a packet: to the bad state with `enter`, back with `leave`; loss in each state.

    Source: Gilbert 1960; Elliott 1963. netem's `gemodel p r 1-h 1-k` is enter, leave, in_bad, in_good.
    """

    enter: float
    leave: float
    in_good: float
    in_bad: float

    def __post_init__(self) -> None:
        for name in ("enter", "leave", "in_good", "in_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"loss.{name}", f"{getattr(self, name)} is not in 0 to 1")
        if self.enter + self.leave == 0:
            raise InvalidInput("loss.leave", "enter and leave are both 0: no state is ever left")

    @property
    def mean(self) -> float:
        """The share of packets lost in the long run."""
        bad = self.enter / (self.enter + self.leave)
        return (1 - bad) * self.in_good + bad * self.in_bad


@dataclass(frozen=True, slots=True)
class Idle:
    """After `after_s` without traffic the first packet waits, drawn from `delay_ms`: the radio wakes up."""

    after_s: float
    delay_ms: Quantiles


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction of a link, R rows. A row of rate 0 is never open: nothing could leave in it."""

    delay_ms: Floats  # (R,) one way, from the queue's end to the other side
    rate_mbit: Floats  # (R,)
    state: NDArray[np.uint8]  # (R,) of State
    queue_bytes: int  # what may wait for the rate; bytes on their way do not count
    loss: Loss | None = None

    def __post_init__(self) -> None:
        rows = (len(self.state),)
        for name in ("delay_ms", "rate_mbit", "state"):
            values = getattr(self, name)
            if values.shape != rows or not rows[0]:
                raise InvalidInput(name, f"shape {values.shape} is not a row a state, {rows}")
            if not np.isfinite(values).all() or values.min() < 0:
                raise InvalidInput(name, "has a row that is negative or not finite")
        if self.state.max() > max(State):
            raise InvalidInput("state", f"{self.state.max()} is none of {_STATES}")
        if ((self.rate_mbit == 0) & (self.state == State.OPEN)).any():
            raise InvalidInput("rate_mbit", "a row is open at rate 0")
        if self.queue_bytes < 1:
            raise InvalidInput("queue_bytes", f"{self.queue_bytes} is not at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """A link over time; `name` and `kind` say what it may be taken for."""

    name: str
    kind: Kind
    seed: int
    step_s: float
    up: Direction  # from the listener (the lower tier) to the target (the upper tier)
    down: Direction
    idle: Idle | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidInput("kind", f"{self.kind!r} is none of {', '.join(get_args(Kind))}")
        if not (np.isfinite(self.step_s) and self.step_s > 0):
            raise InvalidInput("step_s", f"{self.step_s} is not above 0")
        if len(self.up.state) != len(self.down.state):
            raise InvalidInput("down", f"has {len(self.down.state)} rows, up {len(self.up.state)}")

    @property
    def duration_s(self) -> float:
        """How long the rows last before they start again."""
        return len(self.up.state) * self.step_s

    def at(self, t_s: float) -> int:
        """The row in force t_s after the start (0 or later)."""
        # The small addend, since 0.15 / 0.05 is 2.9999999999999996.
        return int(t_s / self.step_s + 1e-9) % len(self.up.state)

    def write(self, path: Path) -> None:
        """Write the file; numbers keep ten significant digits, which is all that a compiled timeline has.

        Raises InvalidInput naming a file that cannot be written.
        """
        times = np.arange(len(self.up.state)) * self.step_s
        ways = [a for way in (self.up, self.down) for a in (way.delay_ms, way.rate_mbit, way.state)]
        formats = ["%.10g", *2 * ["%.10g", "%.10g", "%d"]]
        try:
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.write(f"# {json.dumps(_header_of(self), sort_keys=True)}\n{_COLUMNS}\n")
                np.savetxt(file, np.column_stack([times, *ways]), fmt=formats, delimiter=",")
        except OSError as exc:
            raise InvalidInput(str(path), f"cannot be written: {exc.strerror}") from exc


def read_timeline(path: Path) -> Timeline:
    """The timeline in a file. Raises InvalidInput naming the file, and the key or line that is wrong."""
    try:
        first, columns, rows = path.read_text(encoding="utf-8").split("\n", 2)
    except FileNotFoundError as exc:
        raise InvalidInput(str(path), "there is no such file") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc}") from exc
    except ValueError as exc:
        raise InvalidInput(str(path), "is no timeline: it has no rows") from exc
    if not first.startswith("# ") or columns.strip() != _COLUMNS:
        raise InvalidInput(str(path), f"is no timeline: no line `# {{json}}`, or not {_COLUMNS}")
    try:
        if not rows.strip():
            raise InvalidInput("rows", "there are none")
        header = _Header.model_validate_json(first[2:])
        table = np.loadtxt(StringIO(rows), delimiter=",", ndmin=2)
        return header.timeline(table)
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidInput(f"{path}: {flaw.key}", flaw.text) from exc
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc.field}", exc.message) from exc
    except ValueError as exc:
        raise InvalidInput(str(path), f"rows: {exc}") from exc


class _LossHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")
    enter: float
    leave: float
    in_good: float
    in_bad: float


class _Way(BaseModel):
    model_config = ConfigDict(extra="forbid")
    queue_bytes: int
    loss: _LossHeader | None

    def direction(self, columns: Floats) -> Direction:
        """columns: (R, 3) of delay, rate and state."""
        delay, rate, state = columns.T.copy()
        if not np.isin(state, [*State]).all():
            raise InvalidInput("state", f"a row is none of {_STATES}")
        loss = None if self.loss is None else Loss(**self.loss.model_dump())
        return Direction(delay, rate, state.astype(np.uint8), self.queue_bytes, loss)


class _IdleHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")
    after_s: float
    delay_ms: dict[float, float]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Literal["offramp-timeline-1"]
    name: str
    kind: Kind
    seed: int
    step_s: Annotated[float, Field(gt=0)]
    states: str
    up: _Way
    down: _Way
    idle: _IdleHeader | None

    def timeline(self, table: Floats) -> Timeline:
        """table: (R, 7), as the columns are named."""
        if table.shape[1] != 7:
            raise InvalidInput("rows", f"have {table.shape[1]} columns, not 7")
        idle = None
        if self.idle is not None:
            delay_ms = Quantiles.of(self.idle.delay_ms, "idle.delay_ms")
            idle = Idle(self.idle.after_s, delay_ms)
        up, down = self.up.direction(table[:, 1:4]), self.down.direction(table[:, 4:7])
        return Timeline(self.name, self.kind, self.seed, self.step_s, up, down, idle)


def _header_of(timeline: Timeline) -> dict[str, Any]:
    def way(direction: Direction) -> dict[str, Any]:
        loss = direction.loss
        parts = None if loss is None else {name: getattr(loss, name) for name in loss.__slots__}
        return {"queue_bytes": direction.queue_bytes, "loss": parts}

    idle = timeline.idle
    return {
        "format": _FORMAT,
        "name": timeline.name,
        "kind": timeline.kind,
        "seed": timeline.seed,
        "step_s": timeline.step_s,
        "states": _STATES,
        "up": way(timeline.up),
        "down": way(timeline.down),
        "idle": idle
        and {
            "after_s": idle.after_s,
            "delay_ms": {f"{k:g}": v for k, v in idle.delay_ms.percentiles.items()},
        },
    }
