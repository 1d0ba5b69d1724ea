"""Who may call a tier: a file, one caller a line, read again when it changes.

# of certificates, by a DNS name or URI among the subject's alternative names; `push`: may push bundles
certificate fog.example
certificate spiffe://example/operator push
# or of tokens, by a name for the log and the SHA-256 of the token
token scanner 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b

One file holds certificates or tokens: gRPC asks every caller for a certificate, or none.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from offramp.errors import InvalidInput

_LINE = re.compile(
    r"certificate (?P<identity>[!-~]{1,255})(?P<push_c> push)?"
    r"|token (?P<name>[!-~]{1,128}) (?P<digest>[0-9a-fA-F]{64})(?P<push_t> push)?"
)
_FORMS = "'certificate IDENTITY', 'token NAME SHA256', or one of them with ' push' after it"


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who may call. digest: of the token, in hexadecimal; "" for the owner of a certificate."""

    name: str
    may_push: bool = False
    digest: str = ""


class Callers:
    """Those of one file."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        self._callers = frozenset(callers)

    def __contains__(self, caller: Caller) -> bool:
        return caller in self._callers

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers)

    @property
    def by_token(self) -> bool:
        """Whether they show tokens, not certificates."""
        return any(caller.digest for caller in self._callers)

    def with_identity(self, identities: Iterable[str]) -> Caller | None:
        """The one whose certificate says one of these; where it says two, the one who may more."""
        said = set(identities)
        found = [one for one in self if not one.digest and one.name in said]
        return max(found, key=lambda one: (one.may_push, one.name), default=None)

    def with_token(self, token: str) -> Caller | None:
        """The one with this token; it takes as long for one that is nearly right."""
        digest = sha256(token.encode()).hexdigest()
        found = [one for one in self if hmac.compare_digest(one.digest, digest)]
        return found[0] if found else None


def read_callers(file: Path, *, by_token: bool | None = None) -> Callers:
    """Those in a file, all by token or none where that is given.

    Raises InvalidInput naming file and line, but nothing of the line: it may hold a secret.
    """
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError as exc:
        raise InvalidInput(str(file), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInput(str(file), "is not ASCII") from exc
    found = []
    for number, line in enumerate(lines, 1):
        text = " ".join(line.split())
        if text and not text.startswith("#"):
            found.append(_caller(text, f"{file}:{number}"))
    if not found:
        raise InvalidInput(str(file), "names nobody who may call")
    if len({caller.name for caller in found}) < len(found):
        raise InvalidInput(str(file), "names somebody twice")
    kinds = {bool(caller.digest) for caller in found}
    if len(kinds) > 1:
        raise InvalidInput(str(file), "holds both certificates and tokens; a tier asks for one")
    if by_token not in (None, *kinds):
        asked = "tokens" if by_token else "certificates"
        raise InvalidInput(str(file), f"holds no {asked}, which is what this tier asks for")
    return Callers(found)


def _caller(text: str, where: str) -> Caller:
    match = _LINE.fullmatch(text)
    if match is None:
        raise InvalidInput(where, f"is not {_FORMS}")
    may_push = bool(match["push_c"] or match["push_t"])
    return Caller(match["identity"] or match["name"], may_push, (match["digest"] or "").lower())
