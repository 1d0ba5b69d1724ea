"""Many bad callers at once, from one process: sockets, an epoll, and no gRPC library to keep them honest.

    parent --spawn--> open `connections`, `opens_hz` a second, from many addresses of 127/8
                      then `beats_hz` a second, in turn: a byte, a stream dropped, a sample whose result nobody reads
    parent --stop---> close all, and say what happened

Connections that the tier ends are opened again, at the same pace.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks.devices.processes import allow_files
from benchmarks.hostile import frames
from offramp.rpc.v1 import tier_pb2 as pb

_STREAM = "/offramp.rpc.v1.Tier/Stream"
_TICK_S = 0.004
_MOST_BEHIND_S = (
    0.01  # what was missed while other processes had the core is not made up for at once
)
_CONNECT_S = 1.0
_READ_BYTES = 65_536
_NICE = 15  # attackers of a machine's own would not take its cores
_CLAIMED_BYTES = 2**20  # the message that comes a byte at a time: a tier takes 4 MiB
_UNREAD_BYTES = 4096  # of the receive buffer of a caller that does not read
_NAMES = pb.Request(
    names=[
        pb.Name(number=0, origin=pb.Origin(device="unread", run=1)),
        pb.Name(number=0, network=""),
        pb.Name(number=0, policy=""),
    ]
)


@dataclass(slots=True)
class Caller:
    """One connection: its socket, how many streams it has opened, how many samples it has sent."""

    socket: socket.socket
    streams: int = 0
    samples: int = 0
    received: bytes = b""  # part of a frame

    def next_stream(self) -> int:
        """The number of another stream."""
        self.streams += 1
        return 2 * self.streams - 1


def _silent(_caller: Caller) -> bytes:
    return b""


def _hello(_caller: Caller) -> bytes:
    return frames.hello()


def _open_stream(caller: Caller) -> bytes:
    return frames.hello() + frames.headers(_STREAM, caller.next_stream())


def _begin_message(caller: Caller) -> bytes:
    head = frames.message(bytes(_CLAIMED_BYTES))[:5]
    return _open_stream(caller) + frames.data(head, 1)


def _one_byte(_caller: Caller) -> bytes:
    return frames.data(b"x", 1)


def _drop(caller: Caller) -> bytes:
    stream = caller.next_stream()
    return frames.headers(_STREAM, stream) + frames.reset(stream)


def _half_close(caller: Caller) -> bytes:
    stream = caller.next_stream()
    return frames.headers(_STREAM, stream) + frames.data(b"", stream, ends=True)


def _introduce(caller: Caller) -> bytes:
    return _open_stream(caller) + frames.data(frames.message(_NAMES.SerializeToString()), 1)


def _ask(caller: Caller) -> bytes:
    caller.samples += 1  # not valid: its status comes back at once, and costs no compute
    sample = pb.Sample(id=pb.SampleId(sequence=caller.samples))
    return frames.data(frames.message(pb.Request(samples=[sample]).SerializeToString()), 1)


class Kind(NamedTuple):
    """What is said on a new connection, what again and again, and whether it is ever read from."""

    opening: Callable[[Caller], bytes]
    beat: Callable[[Caller], bytes] | None = None
    reads: bool = True


KINDS = {
    "idle": Kind(_silent),
    "greeted": Kind(_hello),
    "streams": Kind(_open_stream),
    "slow": Kind(_begin_message, _one_byte),
    "dropped": Kind(_hello, _drop),
    "half-closed": Kind(_hello, _half_close),
    "unread": Kind(_introduce, _ask, reads=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """So many connections of a kind, from so many addresses. opens_hz, beats_hz: a second, of all together."""

    kind: str
    connections: int
    sources: int = 1
    opens_hz: float = 2000.0
    beats_hz: float = 0.0


@dataclass(slots=True)
class Report:
    """Connections opened, those that could not be or that the tier ended, beats, and beats that found no room."""

    opened: int = 0
    ended: int = 0
    beats: int = 0
    blocked: int = 0


class Attackers:
    """All callers of an attack; keep_up() again and again, then close()."""

    def __init__(self, address: str, attack: Attack) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._attack, self._kind = attack, KINDS[attack.kind]
        self._selector = selectors.DefaultSelector()
        self._callers: deque[Caller] = deque()  # those that ended leave it when their turn comes
        self._there = 0
        self._last = time.monotonic()
        self._due_opens = self._due_beats = 0.0
        self.report = Report()

    @property
    def all_there(self) -> bool:
        """Whether every connection has been tried."""
        return self.report.opened >= self._attack.connections

    @property
    def has_beaten(self) -> bool:
        """Whether each has done what its kind does again and again."""
        return self._kind.beat is None or self.report.beats >= self._attack.connections

    def keep_up(self) -> None:
        """Open and beat what has become due, and read what has come."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, _MOST_BEHIND_S), now
        missing = self._attack.connections - self._there
        self._due_opens = min(self._due_opens + passed * self._attack.opens_hz, missing)
        self._due_beats += passed * self._attack.beats_hz
        while self._due_opens >= 1:
            self._due_opens -= 1
            self._open()
        while self._due_beats >= 1:
            self._due_beats -= 1
            self._beat()
        self._read()

    def close(self) -> None:
        """Let go of all connections."""
        for caller in self._callers:
            caller.socket.close()
        self._selector.close()

    def _open(self) -> None:
        source = f"127.0.1.{1 + self.report.opened % self._attack.sources}"
        self.report.opened += 1
        caller = Caller(socket.socket())
        caller.socket.settimeout(_CONNECT_S)
        try:
            if not self._kind.reads:
                caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)
            caller.socket.bind((source, 0))
            caller.socket.connect(self._target)
            caller.socket.setblocking(False)
            if opening := self._kind.opening(caller):
                caller.socket.send(opening)
        except OSError:
            self.report.ended += 1
            caller.socket.close()
            return
        self._there += 1
        self._callers.append(caller)
        if self._kind.reads:
            self._selector.register(caller.socket, selectors.EVENT_READ, caller)

    def _next(self) -> Caller | None:
        while self._callers:
            caller = self._callers.popleft()
            if caller.socket.fileno() >= 0:
                self._callers.append(caller)
                return caller
        return None

    def _beat(self) -> None:
        caller = self._next() if self._kind.beat else None
        if caller is None or self._kind.beat is None:
            return
        self.report.beats += 1
        try:
            caller.socket.send(self._kind.beat(caller))
        except BlockingIOError:
            self.report.blocked += 1
        except OSError:
            self._end(caller)

    def _read(self) -> None:
        for key, _ in self._selector.select(0.0):
            caller: Caller = key.data
            try:
                self._hear(caller, caller.socket.recv(_READ_BYTES))
            except BlockingIOError:
                continue  # no room for what it would say
            except OSError:
                self._end(caller)

    def _hear(self, caller: Caller, data: bytes) -> None:
        if not data:
            self._end(caller)
            return
        said, caller.received = frames.answered(caller.received + data)
        if said and self._kind.opening is not _silent:
            caller.socket.send(said)

    def _end(self, caller: Caller) -> None:
        if self._kind.reads:
            self._selector.unregister(caller.socket)
        caller.socket.close()
        self.report.ended += 1
        self._there -= 1


def _attack(address: str, attack: Attack, parent: Connection) -> None:
    """Attack from this process until the parent says otherwise; it hears once all were opened, and what happened."""
    os.nice(_NICE)
    allow_files()
    attackers = Attackers(address, attack)
    said = False
    while not parent.poll(_TICK_S):
        attackers.keep_up()
        if attackers.all_there and not said:
            said = True
            parent.send(None)
    attackers.close()
    parent.send(attackers.report)


class Running:
    """An attack that is under way in a process of its own."""

    def __init__(self, address: str, attack: Attack) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_attack, args=(address, attack, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed
        self.report = Report()

    def wait_opened(self) -> None:
        """Return once every connection has been tried. Raises EOFError where the attackers have failed."""
        self._pipe.recv()

    def stop(self) -> None:
        """End them; `report` is then what happened."""
        self._pipe.send(None)
        while not isinstance(found := self._pipe.recv(), Report):
            pass
        self.report = found
        self._process.join()


@contextmanager
def attacked(address: str, attack: Attack) -> Iterator[Running]:
    """That attack meanwhile."""
    running = Running(address, attack)
    try:
        yield running
    finally:
        running.stop()
