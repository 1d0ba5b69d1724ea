"""Long identifiers, said once on a stream and afterwards named by a small number.

sender   NamesSaid.number("policy", id) -> 0, and the name goes into the next message
receiver NamesTold.learn(message.names); NamesTold.text("policy", 0) -> id
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from offramp.errors import InvalidInput
from offramp.rpc.v1 import tier_pb2 as pb

Kind = Literal["origin", "network", "policy"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
# What one caller can make a tier remember is these and the lengths below: some 3 MB a stream.
MOST_NAMES = 4096  # of one kind on one stream; see NamesSaid.is_full
_MOST_AT_ONCE = len(_KINDS) * MOST_NAMES
MOST_DEVICE_BYTES = 256
MOST_TEXT_BYTES = 128  # of a digest (64), or of a policy's id (64) or name


class Origin(NamedTuple):
    """Who made a sample, and a number that differs for each of its runs."""

    device: str
    run: int


@lru_cache(1024)
def check_lengths(origin: Origin, network: str, policy: str) -> None:
    """Pass where a peer will take these names. Raises InvalidInput."""
    _check_length("id.origin.device", origin.device, MOST_DEVICE_BYTES)
    _check_length("network", network, MOST_TEXT_BYTES)
    _check_length("policy", policy, MOST_TEXT_BYTES)


def _check_length(field: str, text: str, most: int) -> None:
    if (size := len(text.encode())) > most:
        raise InvalidInput(field, f"{size} bytes, over the limit of {most}")


class NamesSaid:
    """The sender's side: numbers for values, and the names that were not yet said."""

    __slots__ = ("_counts", "_numbers", "_origins", "_unsaid")

    def __init__(self) -> None:
        self._numbers: dict[tuple[Kind, str | Origin], int] = {}
        self._counts = [0] * len(_KINDS)  # each kind from 0 on, which takes no bytes in a message
        self._unsaid: list[pb.Name] = []
        self._origins: list[Origin] = []

    def number(self, kind: Kind, value: str | Origin) -> int:
        """The number of a value on this stream; a new one is among `unsaid` until that is taken."""
        number = self._numbers.get((kind, value))
        if number is None:
            place = _KINDS.index(kind)
            number = self._numbers[kind, value] = self._counts[place]
            self._counts[place] += 1
            if isinstance(value, Origin):
                self._origins.append(value)
                origin = pb.Origin(device=value.device, run=value.run)
                self._unsaid.append(pb.Name(number=number, origin=origin))
            elif kind == "network":
                self._unsaid.append(pb.Name(number=number, network=value))
            else:
                self._unsaid.append(pb.Name(number=number, policy=value))
        return number

    @property
    def is_full(self) -> bool:
        """Whether the peer may refuse one more name; then this stream is to be ended and another one opened."""
        return max(self._counts) >= MOST_NAMES

    def origin(self, number: int) -> Origin:
        """The origin that was given this number. Raises InvalidInput where none was."""
        if number >= len(self._origins):
            raise InvalidInput("id.origin", f"number {number} was never said")
        return self._origins[number]

    def take_unsaid(self) -> list[pb.Name]:
        """The names to put into the message about to be sent."""
        unsaid, self._unsaid = self._unsaid, []
        return unsaid


class NamesTold:
    """The receiver's side: values for numbers."""

    __slots__ = ("_networks", "_origins", "_policies")

    def __init__(self) -> None:
        self._origins: dict[int, Origin] = {}
        self._networks: dict[int, str] = {}
        self._policies: dict[int, str] = {}

    def learn(self, names: Sequence[pb.Name]) -> None:
        """Remember the names of a message. Raises InvalidInput for one of no kind, one too long or one too many."""
        if len(names) > _MOST_AT_ONCE:
            raise InvalidInput("names", f"{len(names)} in one message")
        for name in names:
            kind = name.WhichOneof("kind")
            if kind is None:
                raise InvalidInput("names.kind", "a name of no known kind")
            known = self._origins if kind == "origin" else self._texts(kind)
            if len(known) >= MOST_NAMES and name.number not in known:
                raise InvalidInput(f"names.{kind}", f"more than {MOST_NAMES} on one stream")
            if kind == "origin":
                _check_length("names.origin.device", name.origin.device, MOST_DEVICE_BYTES)
                self._origins[name.number] = Origin(name.origin.device, name.origin.run)
            else:
                text: str = getattr(name, kind)
                _check_length(f"names.{kind}", text, MOST_TEXT_BYTES)
                self._texts(kind)[name.number] = sys.intern(text)  # many devices say the same

    def text(self, kind: Literal["network", "policy"], number: int) -> str:
        """The digest, or the policy's id or name. Raises InvalidInput where the number was not named."""
        text = self._texts(kind).get(number)
        if text is None:
            raise InvalidInput(kind, f"number {number} has not been named on this stream")
        return text

    def _texts(self, kind: Literal["network", "policy"]) -> dict[int, str]:
        return self._networks if kind == "network" else self._policies

    def origin(self, number: int) -> Origin:
        """The origin. Raises InvalidInput where the number was not named."""
        origin = self._origins.get(number)
        if origin is None:
            raise InvalidInput("id.origin", f"number {number} has not been named on this stream")
        return origin
