"""A tier as a program: flags, settings, composition, a graceful end. The three tiers differ in what they pass in.

Exit codes: 0 for a clean stop, 1 for an unhealthy --health, 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from offramp.errors import InvalidInput, InvalidSettings
from offramp.serving.heap import keep_heap_small, trim_heap
from offramp.serving.reading import add_flags, read_settings
from offramp.serving.settings import TierSettings

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def run_tier(tier_name: str, model: type[TierSettings], argv: Sequence[str] | None = None) -> int:
    """Run the tier of that name (device, fog or cloud) until SIGTERM or SIGINT; returns the exit code."""
    program = f"offramp-{tier_name}"
    parser = _Parser(program, description=f"The {tier_name} tier of offramp.", allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="a TOML file of settings")
    parser.add_argument(
        "--check-config", action="store_true", help="check settings and bundle, then exit"
    )
    parser.add_argument(
        "--health", action="store_true", help="ask the running tier for its health, then exit"
    )
    parser.add_argument("--version", action="version", version=version("offramp"))
    add_flags(parser, model)
    arguments = parser.parse_args(argv)
    try:
        settings = read_settings(
            model,
            file=arguments.config,
            environment=os.environ,
            prefix=f"OFFRAMP_{tier_name.upper()}_",
            flags=vars(arguments),
        )
        if arguments.health:
            return _ask_health(settings.tls.health if settings.tls.folder else settings.listen)
        return asyncio.run(_serve(tier_name, settings, check_only=arguments.check_config))
    except InvalidInput as exc:
        print(f"{program}: {exc}", file=sys.stderr)  # noqa: T201
        return 2


def _ask_health(listen: str) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    host, _, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
    options = [("grpc.enable_http_proxy", 0)]  # nor does a tier go to its neighbour through one
    with grpc.insecure_channel(f"{host}:{port}", options) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2.0
            )
        except grpc.RpcError:
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


async def _serve(tier_name: str, settings: TierSettings, *, check_only: bool) -> int:
    keep_heap_small()
    # Before gRPC is imported: its core writes lines of its own, as of a port in use, which here is our error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from offramp.rpc import Tier
    from offramp.serving.composition import compose
    from offramp.serving.files import allow_files
    from offramp.telemetry import configure_logging

    configure_logging(tier_name, settings.log_level)
    allow_files(settings.limits.connections)
    parts = compose(Tier[tier_name.upper()], settings)
    if check_only:
        sys.stdout.write(parts.summary() + "\n")
        await parts.close()
        return 0
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await parts.start()
    except InvalidSettings:
        await parts.close()
        raise
    gc.collect()
    trim_heap()
    gc.freeze()  # modules, bundle and sessions stay: no collection need look at them again
    health = f" health={parts.health}" if parts.health else ""
    sys.stdout.write(f"ready {tier_name} listen={parts.listen} metrics={parts.metrics}{health}\n")
    sys.stdout.flush()
    logger.info("ready: %s", parts.summary())
    await stopped.wait()
    logger.info("stopping: answering %d samples", parts.engine.in_flight)
    await parts.stop()
    logger.info("stopped")
    return 0
