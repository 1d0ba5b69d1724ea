"""The gate: it stands before every service of a server, and a service may ask who called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.serving.pki import Pki, connected, needs_openssl, outcome

from offramp.serving.access import Caller, SecurePort, current_caller
from offramp.serving.settings import TlsSettings
from offramp.telemetry import TierMetrics

pytestmark = needs_openssl


def name_of(caller: Caller | None) -> bytes:
    return b"nobody" if caller is None else f"{caller.name} {caller.may_push}".encode()


async def unary(_request: bytes, _context: Any) -> bytes:
    return name_of(current_caller())


async def generator(_request: Any, _context: Any) -> AsyncIterator[bytes]:
    yield name_of(current_caller())


async def writer(_request: Any, context: Any) -> None:
    await context.write(name_of(current_caller()))


async def broken(_request: bytes, _context: Any) -> bytes:
    raise TimeoutError("a fault of the service's own")


def refuses(data: bytes) -> bytes:
    """Reads a message; nobody's is read who may not call."""
    assert data != b"poison", "it was read"
    return data


SERVICE = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, request_deserializer=refuses),
    "Down": grpc.unary_stream_rpc_method_handler(generator, request_deserializer=refuses),
    "Up": grpc.stream_unary_rpc_method_handler(unary),
    "Both": grpc.stream_stream_rpc_method_handler(writer),
    "Broken": grpc.unary_unary_rpc_method_handler(broken),
}


@asynccontextmanager
async def serving(pki: Pki, tier: str = "cloud") -> AsyncIterator[str]:
    """A server of the service "x.Any" behind a gate."""
    settings = TlsSettings(folder=str(pki.folder / tier))
    secure = SecurePort(settings, TierMetrics("cloud", ()), handshake_s=10.0)
    server = grpc.aio.server(interceptors=(secure.gate,))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Any", SERVICE),))
    port = secure.bind(server, "127.0.0.1:0")
    await server.start()
    await secure.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        await secure.close()


async def first(call: Any) -> Any:
    return await call.read()


@pytest.mark.parametrize(("who", "said"), [("fog", b"fog False"), ("operator", b"operator True")])
async def test_every_kind_of_service_may_ask_who_called(pki: Pki, who: str, said: bytes) -> None:
    async with serving(pki) as address, connected(address, pki.tls(who), "cloud") as channel:
        assert await channel.unary_unary("/x.Any/Unary")(b"hi") == said
        assert await first(channel.unary_stream("/x.Any/Down")(b"hi")) == said
        assert await channel.stream_unary("/x.Any/Up")(iter([b"hi"])) == said
        assert await first(channel.stream_stream("/x.Any/Both")(iter([b"hi"]))) == said
    assert current_caller() is None


async def test_a_token_has_a_name_and_a_right_to_push_like_a_certificate(pki: Pki) -> None:
    tls = pki.tls(token=pki.token("operator"))
    async with serving(pki, "device") as address, connected(address, tls, "device") as channel:
        assert await channel.unary_unary("/x.Any/Unary")(b"hi") == b"operator True"


@pytest.mark.parametrize("method", ["Unary", "Down"])
async def test_no_message_is_read_of_who_may_not_call(pki: Pki, method: str) -> None:
    async with serving(pki) as address, connected(address, pki.tls("app"), "cloud") as channel:
        call = channel.unary_unary(f"/x.Any/{method}")
        assert (await outcome(lambda: call(b"poison")))[0] == "UNAUTHENTICATED"


async def test_a_fault_of_a_service_stays_its_own(pki: Pki) -> None:
    async with serving(pki) as address, connected(address, pki.tls("fog"), "cloud") as channel:
        assert (await outcome(lambda: channel.unary_unary("/x.Any/Broken")(b"")))[0] == "UNKNOWN"
