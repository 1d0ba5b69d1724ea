"""What `tc` is told: a timeline's rows as commands for the kernel's netem and a token bucket below it.

    packet -> [ netem: delay, a little jitter, loss ] -> [ tbf: rate, the queue ] -> device

A row becomes two `change` lines. The token bucket shapes when a packet leaves, so a hold is a rate of next to
nothing: the queue keeps what it has. (netem's own `rate` fixes times on arrival, which no later row could change.)
netem's correlation stays 0, since it alters the distribution; what is correlated is the rows. Its limit is set well
above what can be on its way: the default of 1000 packets is the classic mistake.

Pure: netem_engine.py runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from offramp.links.engines.link import Row
from offramp.links.timeline import Direction, Loss, State

TABLE = "offramp"
_TABLE_SIZE = 4096
_SIGMA = 8192  # tables are in 1/8192 of the jitter, 16 bits signed, so that 4 sigma is the end
_MOST_JITTER_S = 50e-6  # more would reorder packets, which a link with one queue does not
_JITTER_SHARE = 0.01  # of the delay
_HOLD_BITS_S = 8
_BURST_S = 0.001
_ETHERNET_BYTES = 14
_IP_UDP_BYTES = 28
_LEAST_LIMIT_PACKETS = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """What holds for all rows of one direction; has_table: whether tc finds the jitter's distribution."""

    queue_bytes: int
    mtu: int
    loss: Loss | None
    has_table: bool


def add_lines(device: str, row: Row, shape: Shape) -> list[str]:
    """The lines of `tc -batch` that put both queues on a device."""
    return [
        f"qdisc add dev {device} root handle 1: {netem(row, shape)}",
        f"qdisc add dev {device} parent 1:1 handle 10: {tbf(row, shape)}",
    ]


def change_lines(device: str, row: Row, shape: Shape) -> list[str]:
    """The lines that put another row in force; every figure is said again, for what is left out is reset."""
    return [
        f"qdisc change dev {device} root handle 1: {netem(row, shape)}",
        f"qdisc change dev {device} parent 1:1 handle 10: {tbf(row, shape)}",
    ]


def netem(row: Row, shape: Shape) -> str:
    """netem's part of a row."""
    delay_us = round(row.delay_s * 1e6)
    jitter_us = round(min(_MOST_JITTER_S, row.delay_s * _JITTER_SHARE) * 1e6)
    words = [f"netem limit {_limit_packets(row, shape)} delay {delay_us}us"]
    if shape.has_table and jitter_us:
        words.append(f"{jitter_us}us distribution {TABLE}")
    if row.state == State.DROP:
        words.append("loss 100%")
    elif shape.loss is not None:
        # p and r, then the loss in the bad and in the good state (tc-netem(8): 1-h and 1-k)
        loss = shape.loss
        parts = (loss.enter, loss.leave, loss.in_bad, loss.in_good)
        words.append("loss gemodel " + " ".join(f"{100 * part:.6g}%" for part in parts))
    return " ".join(words)


def tbf(row: Row, shape: Shape) -> str:
    """The token bucket's part of a row."""
    bits_s = max(_HOLD_BITS_S, round(row.rate_bytes_s * 8))
    burst = ceil(row.rate_bytes_s * _BURST_S)
    # A full bucket comes with every change, so a hold's has room for one packet only (see `filler`).
    burst = max((1 if row.state == State.HOLD else 2) * (shape.mtu + _ETHERNET_BYTES), burst)
    return f"tbf rate {bits_s}bit burst {burst}b limit {max(shape.queue_bytes, burst)}b"


def filler(shape: Shape) -> list[bytes]:
    """UDP payloads that empty the bucket with which a hold begins: one takes all, the next one waits in front."""
    return [bytes(shape.mtu - _IP_UDP_BYTES)] * 2


def _limit_packets(row: Row, shape: Shape) -> int:
    on_the_way = 2 * row.rate_bytes_s * row.delay_s
    return max(_LEAST_LIMIT_PACKETS, ceil((on_the_way + shape.queue_bytes) / shape.mtu))


def jitter_table(direction: Direction) -> str | None:
    """The text of NAME.dist: how the delay's changes from row to row are distributed, to a sigma of 8192.

    What is left out of a step function: within a row the delay goes on varying as it does between rows, scaled
    down to `_MOST_JITTER_S`. None where the delay is constant.
    """
    changes = np.diff(direction.delay_ms)
    spread = float(changes.std()) if len(changes) else 0.0
    if spread == 0:
        return None
    positions = (np.arange(_TABLE_SIZE) + 0.5) / _TABLE_SIZE
    values = np.quantile((changes - changes.mean()) / spread, positions) * _SIGMA
    return _as_text(np.clip(np.rint(values), -32_768, 32_767).astype(np.int64))


def _as_text(values: NDArray[np.int64]) -> str:
    lines = (" ".join(map(str, row)) for row in values.reshape(-1, 8).tolist())
    return "# jitter within a row\n" + "\n".join(lines) + "\n"
