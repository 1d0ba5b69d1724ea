"""What pydantic found wrong with a value from outside, in one line."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError


class Flaw(NamedTuple):
    """Where something is wrong, key by key from the outside in, and what."""

    location: tuple[int | str, ...]
    text: str

    @property
    def key(self) -> str:
        """The location with dots between, as in `plan.last_stage`; "" of the whole."""
        return ".".join(map(str, self.location))


def first_flaw(error: ValidationError) -> Flaw:
    """The first of what was found."""
    first = error.errors()[0]
    unknown = first["type"] == "extra_forbidden"
    text = "no such key" if unknown else first["msg"].removeprefix("Value error, ")
    return Flaw(first["loc"], text)
