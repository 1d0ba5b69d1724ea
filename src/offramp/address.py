"""Where a tier is, as a setting, an option and a caller of the clients say it: HOST:PORT."""

from __future__ import annotations

import re

from offramp.errors import InvalidInput

_ADDRESS = re.compile(r"(?:[^\s:\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


def checked_address(field: str, text: str) -> str:
    """The same text, where it is HOST:PORT or [IPv6]:PORT. Raises InvalidInput naming the field."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[1]) > 65_535:
        raise InvalidInput(field, f"{text!r} is not HOST:PORT")
    try:
        text.rpartition(":")[0].encode("idna")  # as whoever looks it up will
    except UnicodeError:
        raise InvalidInput(field, f"{text!r}: no host can have that name") from None
    return text
