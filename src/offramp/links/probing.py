"""Both ends of a measurement: a peer that answers in threads, and what a client asks of it. Plain blocking sockets.

A connection begins with its purpose, one letter:
    E   messages of 64 bytes come back, with the time of their turning
    A   messages of 64 bytes; at the end their times of arrival come back
    U   bytes; at the end the goodput of all but the beginning comes back
    D   a number of seconds; bytes come for that long
    C   a length and so many bytes; 64 bytes come back; and again
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np

from offramp.links.engines.endpoints import Endpoint
from offramp.links.quantiles import Floats

_MESSAGE = struct.Struct("!dd48x")  # when it was sent, when it was turned
_LENGTH = struct.Struct("!Q")
_SECONDS = struct.Struct("!d")
_CHUNK = bytes(256 * 1024)
_WARM_UP_S = 2.0  # slow start, and the filling of the link
_TIMEOUT_S = 30.0


class Peer:
    """The target of a link under test, on 127.0.0.1, from construction to close()."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=_serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _serve(connection: socket.socket) -> None:
    purposes: dict[bytes, Callable[[socket.socket], None]] = {
        b"E": _turn,
        b"A": _note_arrivals,
        b"U": _sink,
        b"D": _source,
        b"C": _answer_calls,
    }
    with connection, suppress(OSError, EOFError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        purpose = purposes.get(_read(connection, 1))
        if purpose is not None:
            purpose(connection)


def _turn(connection: socket.socket) -> None:
    while True:
        sent_s, _ = _MESSAGE.unpack(_read(connection, _MESSAGE.size))
        connection.sendall(_MESSAGE.pack(sent_s, time.monotonic()))


def _note_arrivals(connection: socket.socket) -> None:
    times = []
    with suppress(EOFError):
        while True:
            _read(connection, _MESSAGE.size)
            times.append(time.monotonic())
    connection.sendall(json.dumps(times).encode())


def _sink(connection: socket.socket) -> None:
    connection.sendall(_SECONDS.pack(_goodput_mbit(connection)))


def _source(connection: socket.socket) -> None:
    (seconds,) = _SECONDS.unpack(_read(connection, _SECONDS.size))
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        connection.sendall(_CHUNK)


def _answer_calls(connection: socket.socket) -> None:
    while True:
        (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
        _read(connection, length)
        connection.sendall(bytes(_MESSAGE.size))


def _read(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, len(_CHUNK)))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _goodput_mbit(connection: socket.socket) -> float:
    """What arrives until the end, in Mbit/s, the warm-up left out."""
    buffer = bytearray(len(_CHUNK))
    first_s = last_s = from_s = 0.0
    counted = 0
    while size := connection.recv_into(buffer):
        last_s = time.monotonic()
        first_s = first_s or last_s
        if from_s:
            counted += size
        elif last_s >= first_s + _WARM_UP_S:
            from_s = last_s
    return counted * 8e-6 / (last_s - from_s) if last_s > from_s > 0 else 0.0


def _connect(address: Endpoint, purpose: bytes) -> socket.socket:
    connection = socket.create_connection(address, timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(purpose)
    return connection


def round_trips(
    address: Endpoint, count: int, seconds: float, connections: int = 1
) -> tuple[Floats, Floats, Floats]:
    """When `count` probes, evenly over so many seconds, were sent, turned and back: (count,) each, as sent.

    They take the connections in turn: on one alone, probes that follow a late one wait for it and for its
    acknowledgement, which is TCP's and not the link's.
    """
    found: list[tuple[float, float, float]] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(_connect(address, b"E")) for _ in range(connections)]
        for connection in opened:
            connection.sendall(_MESSAGE.pack(0, 0))  # the connection is open once this is back
            _read(connection, _MESSAGE.size)

        def receive(connection: socket.socket, expected: int) -> None:
            for _ in range(expected):
                sent_s, turned_s = _MESSAGE.unpack(_read(connection, _MESSAGE.size))
                found.append((sent_s, turned_s, time.monotonic()))

        receivers = [
            threading.Thread(
                target=receive, args=(one, len(range(index, count, connections))), daemon=True
            )
            for index, one in enumerate(opened)
        ]
        for receiver in receivers:
            receiver.start()
        start_s = time.monotonic()
        for index in range(count):
            _sleep_until(start_s + index * seconds / count)
            opened[index % connections].sendall(_MESSAGE.pack(time.monotonic(), 0))
        for receiver in receivers:
            receiver.join(_TIMEOUT_S)
    sent, turned, back = np.array(sorted(found), float).reshape(-1, 3).T
    return sent, turned, back


def arrivals(address: Endpoint, until_s: float, every_s: float = 0.002) -> list[float]:
    """When messages sent every so often, until then, arrived at the peer."""
    with _connect(address, b"A") as connection:
        while time.monotonic() < until_s:
            connection.sendall(_MESSAGE.pack(0, 0))
            time.sleep(every_s)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            times: list[float] = json.loads(stream.read())
    return times


def bulk_up_mbit(address: Endpoint, seconds: float) -> float:
    """Goodput of so many seconds of sending, after a warm-up."""
    with _connect(address, b"U") as connection:
        end_s = time.monotonic() + _WARM_UP_S + seconds
        while time.monotonic() < end_s:
            connection.send(_CHUNK)
        connection.shutdown(socket.SHUT_WR)
        (mbit,) = _SECONDS.unpack(_read(connection, _SECONDS.size))
    return float(mbit)


def bulk_down_mbit(address: Endpoint, seconds: float) -> float:
    """Goodput of so many seconds of receiving, after a warm-up."""
    with _connect(address, b"D") as connection:
        connection.sendall(_SECONDS.pack(_WARM_UP_S + seconds))
        return _goodput_mbit(connection)


class Caller:
    """Calls of a size on one connection."""

    def __init__(self, address: Endpoint, size_bytes: int) -> None:
        self._connection = _connect(address, b"C")
        self._request = _LENGTH.pack(size_bytes) + bytes(size_bytes)

    def call_s(self) -> float:
        """How long one call takes."""
        start_s = time.monotonic()
        self._connection.sendall(self._request)
        _read(self._connection, _MESSAGE.size)
        return time.monotonic() - start_s

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _sleep_until(at_s: float) -> None:
    left_s = at_s - time.monotonic()
    if left_s > 0:
        time.sleep(left_s)
