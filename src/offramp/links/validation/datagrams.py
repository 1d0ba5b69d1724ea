"""Probes of a packet engine's segment: UDP, so that what is lost stays lost.

client socket, near:p  -> far:port    up     what arrives there comes to near:port, the answering socket
answers,    near:port  -> far:p       down
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

_DATAGRAM = struct.Struct("!Q56x")
_BURST = 4
_GRACE_S = 1.0


class Datagrams(NamedTuple):
    """When each was sent, which arrived at the other side, and whose answers came back, by number."""

    sent_s: list[float]
    arrived: set[int]
    answered: set[int]


def send_datagrams(segment: dict[str, Any], seconds: float, per_second: float) -> Datagrams:
    """Send at that rate for so long, over the segment of an engine's facts, and wait for the last answers."""
    near, far, port = segment["near"], segment["far"], segment["port"]
    sent_s: list[float] = []
    arrived: set[int] = set()
    answered: set[int] = set()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        client.bind((near, 0))
        other.bind((near, port))
        for one in (client, other):
            one.settimeout(_GRACE_S)

        def answer() -> None:
            with suppress(OSError):  # silence is the end
                while True:
                    data, _ = other.recvfrom(2048)
                    arrived.add(_DATAGRAM.unpack(data)[0])
                    other.sendto(data, (far, client.getsockname()[1]))

        def collect() -> None:
            with suppress(OSError):
                while True:
                    answered.add(_DATAGRAM.unpack(client.recv(2048))[0])

        threads = [threading.Thread(target=work, daemon=True) for work in (answer, collect)]
        for thread in threads:
            thread.start()
        start_s = time.monotonic()
        while (now_s := time.monotonic()) < start_s + seconds:
            for _ in range(_BURST):
                sent_s.append(now_s)
                client.sendto(_DATAGRAM.pack(len(sent_s) - 1), (far, port))
            time.sleep(_BURST / per_second)
        for thread in threads:
            thread.join()
    return Datagrams(sent_s, arrived, answered)


def longest_loss_s(datagrams: Datagrams) -> float:
    """From the first to the last of the longest run that did not arrive, by their times of sending."""
    longest, begun = 0.0, None
    for number, at_s in enumerate(datagrams.sent_s):
        if number in datagrams.arrived:
            begun = None
            continue
        begun = at_s if begun is None else begun
        longest = max(longest, at_s - begun)
    return longest
