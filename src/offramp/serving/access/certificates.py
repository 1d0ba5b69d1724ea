"""A tier's own certificate: its files, when it ends, and what gRPC's server makes of it."""

from __future__ import annotations

import contextlib
import logging
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from offramp.rpc.reread import Reread
from offramp.rpc.tls import read_pem

logger = logging.getLogger(__name__)
_NO_CHECK_TIME = (
    0x200000  # X509_V_FLAG_NO_CHECK_TIME: of one that has expired, too, it is said when
)
_DAY_S = 86_400.0


def files_in(folder: Path | str) -> tuple[Path, Path, Path]:
    """The authority, the certificate and its key, under the names that Kubernetes gives them."""
    return Path(folder, "ca.crt"), Path(folder, "tls.crt"), Path(folder, "tls.key")


@dataclass(frozen=True, slots=True)
class _Held:
    configuration: grpc.ServerCertificateConfiguration
    ends: float | None  # in seconds since 1970; None where it is not of the authority in ca.crt


class Certificates:
    """Those in a folder: ca.crt, tls.crt, tls.key, read again when they change. Raises InvalidInput naming a file."""

    def __init__(self, folder: Path) -> None:
        files = files_in(folder)
        self._held = Reread(files, lambda: _read(*files))
        self._served = self._held.value

    @property
    def ends(self) -> float | None:
        """When the tier's own certificate ends, in seconds since 1970; None where that cannot be told."""
        return self._held.value.ends

    def server_credentials(
        self, *, asks_certificates: bool, begun: Callable[[], None]
    ) -> grpc.ServerCredentials:
        """What a port shows and asks for; each handshake is with the files of that moment, and told to `begun`."""

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            begun()
            held = self._held.value
            if held is self._served:
                return None
            self._served = held
            return held.configuration

        return grpc.dynamic_ssl_server_credentials(
            self._served.configuration, fetch, asks_certificates
        )


def _read(ca: Path, certificate: Path, key: Path) -> _Held:
    pem = read_pem(ca, certificate, key)
    if _is_open_to_all(key):
        logger.warning("%s can be read by everybody on this machine", key)
    ends = _end_of(ca, certificate, key)
    if ends is None:
        logger.warning("%s is not of the authority in %s, or not for servers", certificate, ca)
    elif ends < time.time():
        logger.warning("%s has expired: nobody who checks it will talk to this tier", certificate)
    elif ends < time.time() + _DAY_S:
        logger.info("%s ends within a day", certificate)
    configuration = grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)
    return _Held(configuration, ends)


def _is_open_to_all(key: Path) -> bool:
    try:
        return bool(key.stat().st_mode & stat.S_IRWXO)
    except OSError:
        return False  # replaced just now, and read anew before long


def _end_of(ca: Path, certificate: Path, key: Path) -> float | None:
    """When a certificate ends: a handshake in memory tells, for nothing else in the standard library does."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_cert_chain(certificate, key)
        client.load_verify_locations(ca)
        ends = (
            client.wrap_bio(to_client, to_server),
            server.wrap_bio(to_server, to_client, server_side=True),
        )
        for end in (*ends, *ends):  # hello, hello and certificate, finished
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except OSError:  # an SSLError, or a file that is being replaced
        return None
    said = (ends[0].getpeercert() or {}).get("notAfter")
    return float(ssl.cert_time_to_seconds(said)) if isinstance(said, str) else None
