"""W3C trace context between its two forms: gRPC metadata hold text, samples hold bytes.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re

_TEXT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def traceparent_bytes(text: str) -> bytes:
    """The trace id, parent id and flags of a version 00 `traceparent`: 25 bytes, or none where it is malformed.

    The standard has a malformed one ignored, not refused.

    >>> len(traceparent_bytes("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    25
    """
    match = _TEXT.fullmatch(text)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return b""
    return bytes.fromhex("".join(match.groups()))
