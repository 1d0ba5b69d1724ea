"""Codes in fewer bytes where some are likelier than others: lossless, by tables that a bundle holds.

    codes (K, places) <--> one number, the state, grown by log2(total / count) bits a code <--> bytes

Range asymmetric numeral systems (Duda 2013, arXiv 1311.2540) in integers alone, so that every
machine writes and reads the same bytes. The state is kept under 64 bits: its lower 32 go out as a
word when it would grow beyond. It begins at 2^16 and must be that again when all is read: two bytes
for which broken bytes pass once in 65,536 times. There is no header: what is as long as the packed
form is the packed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput

_TOTAL_BITS = 12  # of a table's counts; 4096 leave 8-bit codes 16 a code
TOTAL = 2**_TOTAL_BITS
_START = 2**16
_WORD_BITS, _WORD_BYTES = 32, 4
_LEAST = 2**_WORD_BITS  # of the state while words are out
_STATE_BYTES = 8


@dataclass(frozen=True)
class Coding:
    """How often each code occurs in each channel, of TOTAL; no code is impossible.

    counts: K times 2^bits. Raises ValueError where they are no such table.
    """

    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for channel, row in enumerate(self.counts):
            if min(row, default=0) < 1 or sum(row) != TOTAL:
                raise ValueError(f"counts.{channel}: not counts of at least 1 that sum to {TOTAL}")

    @classmethod
    def fitted(cls, codes: NDArray[np.uint8], bits: int) -> Coding:
        """The tables of codes (N, K, ...) of `bits` bits; a code that does not occur gets 1."""
        every = np.moveaxis(codes, 1, 0).reshape(codes.shape[1], -1)
        return cls(tuple(_scaled(np.bincount(row, minlength=2**bits)) for row in every))

    def fits(self, shape: tuple[int, ...], bits: int) -> bool:
        """Whether there is a table for each channel of codes of that shape and width."""
        return shape[:1] == (len(self.counts),) and {len(row) for row in self.counts} == {2**bits}

    @cached_property
    def _starts(self) -> tuple[tuple[int, ...], ...]:
        return tuple((0, *accumulate(row[:-1])) for row in self.counts)

    @cached_property
    def _code_at(self) -> tuple[bytes, ...]:
        return tuple(
            np.repeat(np.arange(len(row), dtype=np.uint8), row).tobytes() for row in self.counts
        )

    def encode(self, codes: NDArray[np.uint8]) -> bytes:
        """The bytes of one sample's codes (K, ...), which must lie within the tables."""
        state, words = _START, []
        rows = codes.reshape(len(self.counts), -1).tolist()
        for row, counts, starts in zip(
            reversed(rows), reversed(self.counts), reversed(self._starts), strict=True
        ):
            for code in reversed(row):
                count = counts[code]
                if state >= count << 64 - _TOTAL_BITS:
                    words.append(state & _LEAST - 1)
                    state >>= _WORD_BITS
                whole, rest = divmod(state, count)
                state = (whole << _TOTAL_BITS) + rest + starts[code]
        head = state.to_bytes(-(-state.bit_length() // 8), "big")
        return head + np.array(words[::-1], ">u4").tobytes()

    def decode(self, data: bytes, shape: tuple[int, ...], field: str) -> NDArray[np.uint8]:
        """The codes of those bytes; work and memory depend on the shape alone.

        Raises InvalidInput naming `field` where `encode` did not make them.
        """
        size = len(data)
        broken = InvalidInput(field, f"{size} bytes that are no entropy-coded {list(shape)} codes")
        head = size if size <= _STATE_BYTES else 5 + (size - 5) % _WORD_BYTES
        state = int.from_bytes(data[:head], "big")
        words = np.frombuffer(data[head:], ">u4").tolist()
        taken = 0
        found = bytearray()
        places = math.prod(shape[1:])
        for counts, starts, code_at in zip(self.counts, self._starts, self._code_at, strict=True):
            for _ in range(places):
                slot = state & TOTAL - 1
                code = code_at[slot]
                found.append(code)
                state = counts[code] * (state >> _TOTAL_BITS) + slot - starts[code]
                if state < _LEAST and taken < len(words):
                    state = state << _WORD_BITS | words[taken]
                    taken += 1
                if state < _START:  # which no encoder leaves: the bytes are over
                    raise broken
        if state != _START or taken < len(words) or data[0] == 0:
            raise broken
        return np.frombuffer(bytes(found), np.uint8).reshape(shape)


def _scaled(found: NDArray[np.int64]) -> tuple[int, ...]:
    """Counts of at least 1 that sum to TOTAL, in about the found proportions."""
    share = found / max(1, found.sum())
    counts = 1 + np.floor(share * (TOTAL - len(found))).astype(np.int64)
    counts[found.argmax()] += TOTAL - counts.sum()
    return tuple(counts.tolist())
