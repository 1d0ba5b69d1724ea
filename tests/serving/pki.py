"""Certificates for tests, made by deploy/tls/make.sh, and callers who show them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from offramp.rpc import Tls
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

MAKE = Path(__file__).parents[2] / "deploy" / "tls" / "make.sh"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
OPTIONS = [("grpc.enable_http_proxy", 0)]


@dataclass(frozen=True)
class Pki:
    """What make.sh has put into a folder."""

    folder: Path

    def make(self, *names: str, days: int = 7, more: str = "") -> None:
        """A new certificate for each of them; without any, the authority and everybody's."""
        variables = os.environ | {"DAYS": str(days), "NAMES": more}
        for arguments in [[name] for name in names] or [[]]:
            subprocess.run([MAKE, self.folder, *arguments], check=True, env=variables)

    def settings(self, name: str) -> dict[str, str]:
        """The table [tls] of that tier."""
        return {"folder": str(self.folder / name), "health": "127.0.0.1:0"}

    def token(self, name: str) -> str:
        """Somebody's token."""
        return (self.folder / name / "token").read_text().strip()

    def tls(self, who: str = "", **options: Any) -> Tls:
        """What somebody shows with a certificate; nobody: nothing, trusting the authority."""
        if not who:
            return Tls(self.folder / "authority" / "ca.crt", **options)
        return Tls(*(self.folder / who / f for f in ("ca.crt", "tls.crt", "tls.key")), **options)

    def copy(self, folder: Path) -> Pki:
        """Another that may be changed."""
        return Pki(shutil.copytree(self.folder, folder))


def calls(channel: grpc.aio.Channel) -> dict[str, Callable[[], Any]]:
    """One call of every kind that a tier has, and of a method that it has not."""
    tier: Any = tier_pb2_grpc.TierStub(channel)  # type: ignore[no-untyped-call]
    health = health_pb2_grpc.HealthStub(channel)
    asking = health_pb2.HealthCheckRequest()

    async def first(call: Any) -> Any:
        return await call.read()

    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    return {
        "stream": lambda: first(tier.Stream(timeout=10)),
        "infer": lambda: tier.Infer(pb.Request(), timeout=10),
        "describe": lambda: tier.Describe(pb.DescribeRequest(), timeout=10),
        "health": lambda: health.Check(asking, timeout=10),
        "watch": lambda: first(health.Watch(asking, timeout=10)),
        "reflection": lambda: first(reflect(iter([b"\x3a\x00"]), timeout=10)),
        "unknown": lambda: channel.unary_unary("/offramp.rpc.v1.Tier/Nothing")(b"", timeout=10),
    }


@asynccontextmanager
async def connected(address: str, tls: Tls, name: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a tier whose certificate says that name."""
    async with tls.named(name).open_channel(address, list(OPTIONS)) as channel:
        yield channel


async def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """The status and the message that a caller gets."""
    try:
        await call()
    except grpc.aio.AioRpcError as exc:
        return exc.code().name, exc.details() or ""
    return "OK", ""
