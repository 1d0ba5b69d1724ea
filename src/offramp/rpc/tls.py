"""TLS as a caller needs it: whom it trusts, what it shows of itself, and what a refusal looks like."""

from __future__ import annotations

import copy
import re
import ssl
from pathlib import Path
from typing import Literal, NamedTuple

import grpc
import grpc.aio

from offramp.errors import InvalidInput
from offramp.rpc.reread import Reread

Refusal = Literal["handshake", "identity", "token"]
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
# gRPC says so where a connection was made and then not agreed upon; by "Socket closed" it means that the peer hung up.
_HANDSHAKE = re.compile(
    r"failed to connect .*(handshake failed|Verification Check failed|Socket closed)"
)


class Pem(NamedTuple):
    """The contents of the files: who is trusted, and a certificate (with its chain) and its key, or neither."""

    ca: bytes
    certificate: bytes | None
    key: bytes | None


def read_pem(ca: Path, certificate: Path | None = None, key: Path | None = None) -> Pem:
    """What the files hold. Raises InvalidInput naming the one that cannot be read or used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    held = Pem(*(None if path is None else _bytes_of(path) for path in (ca, certificate, key)))  # type: ignore[arg-type]
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        raise InvalidInput(str(ca), "holds no certificate of an authority") from exc
    if certificate is None or key is None:
        return held
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as exc:
        text = f"is not the key, without a passphrase, of the certificate in {certificate}"
        raise InvalidInput(str(key), text) from exc
    return held


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc.strerror}") from exc


class Tls:
    """How a caller reaches a tier that has TLS on. The files are read again when they change.

    ca: PEM of the authority that the tier's certificate has to come from; certificate, key: PEM, what the caller shows
    of itself, where the tier asks for that; token: what it shows instead; name: what the tier's certificate must say,
    "" for the host of the tier's address. Raises InvalidInput naming the file, or the token without what it is.
    """

    __slots__ = ("_credentials", "name", "token")

    def __init__(
        self,
        ca: Path | str,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        *,
        token: str = "",
        name: str = "",
    ) -> None:
        if (certificate is None) != (key is None):
            raise InvalidInput("key" if key is None else "certificate", "one needs the other")
        if token and not _TOKEN.fullmatch(token):
            raise InvalidInput("token", "is not of printable characters without spaces")
        self.name, self.token = name, token
        files = [Path(file) for file in (ca, certificate, key) if file is not None]
        self._credentials = Reread(files, lambda: _credentials(read_pem(*files), token))

    def named(self, name: str) -> Tls:
        """The same, for a tier whose certificate must say that name, unless there is one that it must say anyway."""
        other = copy.copy(self)
        other.name = self.name or name
        return other

    def open_channel(self, target: str, arguments: list[tuple[str, int | str]]) -> grpc.aio.Channel:
        """A channel to HOST:PORT that shows, and trusts, what the files hold now."""
        name = self.name or target.rpartition(":")[0].strip("[]")
        return grpc.aio.secure_channel(
            target, self._credentials.value, [*arguments, ("grpc.ssl_target_name_override", name)]
        )

    def refusal(self, error: grpc.aio.AioRpcError) -> Refusal | None:
        """How a call was refused, if it was: by its token or identity, or before there was a call at all."""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return "token" if self.token else "identity"
        is_handshake = error.code() is grpc.StatusCode.UNAVAILABLE and _HANDSHAKE.search(
            error.details() or ""
        )
        return "handshake" if is_handshake else None


def _credentials(pem: Pem, token: str) -> grpc.ChannelCredentials:
    credentials = grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)
    if not token:
        return credentials
    # gRPC itself never sends it but over TLS.
    return grpc.composite_channel_credentials(
        credentials, grpc.access_token_call_credentials(token)
    )
