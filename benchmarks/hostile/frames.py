"""The few HTTP/2 frames (RFC 9113) that a caller needs who keeps to the rules only as far as it suits.

    preface, SETTINGS -> HEADERS of a gRPC call -> DATA, whole or a byte at a time -> RST_STREAM, or never

Headers are literals without indexing (RFC 7541, 6.2.2), so that no table has to be kept.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL = 8  # the error code of a caller that has lost interest
HEAD_BYTES = 9


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One frame. stream: odd for a caller's, 0 for the connection."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def hello() -> bytes:
    """How a connection begins."""
    return PREFACE + frame(SETTINGS)


def headers(path: str, stream: int) -> bytes:
    """Opens a gRPC call of that path."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "tier"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    return frame(HEADERS, block, flags=END_HEADERS, stream=stream)


def _text(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data  # shorter than 127, and not Huffman-coded


def data(payload: bytes, stream: int, *, ends: bool = False) -> bytes:
    """Part of a call's messages."""
    return frame(DATA, payload, flags=END_STREAM if ends else 0, stream=stream)


def message(payload: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return struct.pack("!BI", 0, len(payload)) + payload


def reset(stream: int) -> bytes:
    """Drops a call."""
    return frame(RESET, struct.pack("!I", CANCEL), stream=stream)


def answered(received: bytes) -> tuple[bytes, bytes]:
    """What a caller has to say to what came (every PING and SETTINGS is acknowledged), and the part of a frame left."""
    said = []
    while len(received) >= HEAD_BYTES:
        end = HEAD_BYTES + int.from_bytes(received[:3], "big")
        if len(received) < end:
            break
        kind, flags = received[3], received[4]
        if kind in (PING, SETTINGS) and not flags & ACK:
            payload = received[HEAD_BYTES:end] if kind == PING else b""
            said.append(frame(kind, payload, flags=ACK))
        received = received[end:]
    return b"".join(said), received
