"""`offramp link run` puts a link on an address; `offramp link set` changes one that runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from offramp.cli.extra import needs_extra
from offramp.errors import InvalidInput
from offramp.links.control import ask
from offramp.links.emulator import Compile, Settings, run_emulator
from offramp.links.engines.choosing import Name, choose
from offramp.links.engines.endpoints import Endpoint, check_resolves, parse_endpoint
from offramp.links.timeline import read_timeline
from offramp.telemetry import configure_logging

if TYPE_CHECKING:
    from offramp.links.timeline import Timeline

Parsers = argparse._SubParsersAction  # argparse has no public name for it

_DURATION_S = 600.0
_RETRY_S = 0.5


def add_run(verbs: Parsers[argparse.ArgumentParser]) -> None:
    """Register `link run`."""
    from offramp.cli.link import add_timeline_flags

    parser = verbs.add_parser(
        "run",
        help="put a link on an address",
        description="Pass connections on to the target as if a link lay between, until SIGTERM.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--profile", metavar="PROFILE", help="name, or a file *.yaml")
    source.add_argument("--timeline", type=Path, metavar="FILE", help="of `offramp link compile`")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", *get_args(Name)),
        help="auto: the first that works here, in this order",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="serve /metrics there, on the host of --listen",
    )
    parser.add_argument(
        "--control",
        default="",
        metavar="ADDRESS",
        help="HOST:PORT, or the path of a Unix socket, for `offramp link set`; nobody is asked who they are",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="S",
        help="how long the target's name may take until it resolves (0)",
    )
    add_timeline_flags(parser)
    parser.set_defaults(run=run)


def add_set(verbs: Parsers[argparse.ArgumentParser]) -> None:
    """Register `link set`."""
    parser = verbs.add_parser(
        "set",
        help="change a link that runs, or ask it what is in force",
        description="Without any change: print what is in force.",
    )
    parser.add_argument("--control", required=True, metavar="ADDRESS", help="that of `link run`")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--profile", metavar="PROFILE", help="another profile, from its first row")
    change.add_argument("--timeline", type=Path, metavar="FILE", help="another timeline")
    change.add_argument(
        "--cut",
        nargs="?",
        const="drop",
        choices=("drop", "hold"),
        help="let nothing through: lose it (the default; engine stream keeps it), or keep it",
    )
    change.add_argument("--restore", action="store_true", help="end the cut")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="of the cut; else until --restore"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the profile; else as before")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run_set)


def run(arguments: argparse.Namespace) -> int:
    """Run a link until it is told to stop. Raises InvalidInput naming the flag that is wrong."""
    configure_logging("link", "info")
    listen = parse_endpoint("--listen", arguments.listen)
    target = parse_endpoint("--target", arguments.target)
    if arguments.metrics_port is not None and not 0 <= arguments.metrics_port <= 65_535:
        raise InvalidInput("--metrics-port", f"{arguments.metrics_port} is no port")
    _await_name("--target", target, arguments.wait)
    check_resolves("--listen", listen)
    compile_named = _compiler(arguments)
    if arguments.timeline is not None:
        timeline = read_timeline(arguments.timeline)
    else:
        timeline = compile_named(arguments.profile, arguments.seed)
    settings = Settings(
        engine=choose(arguments.engine),
        listen=listen,
        target=target,
        metrics=_metrics_address(listen, arguments.metrics_port),
        control=arguments.control,
    )
    asyncio.run(run_emulator(settings, timeline, compile_named))
    return 0


def _metrics_address(listen: Endpoint, port: int | None) -> str:
    return "" if port is None else str(Endpoint(listen.host, port))


def _await_name(field: str, endpoint: Endpoint, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return check_resolves(field, endpoint)
        except InvalidInput:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(_RETRY_S)


def _compiler(arguments: argparse.Namespace) -> Compile:
    def compile_named(name: str, seed: int | None) -> Timeline:
        with needs_extra("link", "links"):
            from offramp.links.compiling import compile_profile
            from offramp.links.profile import load_profile
        return compile_profile(
            load_profile(name),
            seed=arguments.seed if seed is None else seed,
            duration_s=_DURATION_S if arguments.duration is None else arguments.duration,
            step_s=arguments.step_ms / 1000,
        )

    return compile_named


def run_set(arguments: argparse.Namespace) -> int:
    """Change a running link and print what is then in force. Raises InvalidInput where it refuses."""
    status = ask(arguments.control, _command(arguments))
    if arguments.json:
        print(json.dumps(status, indent=2))
        return 0
    print(
        f"{status['profile']} ({status['kind']}, seed {status['seed']}), engine {status['engine']}"
    )
    for way in ("up", "down"):
        row, clipped = status[way], ", clipped" if way in status["clipped"] else ""
        print(
            f"{way:<5} {row['delay_ms']:g} ms, {row['rate_mbit']:g} Mbit/s, {row['state']}{clipped}"
        )
    return 0


def _command(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.seconds is not None and arguments.cut is None:
        raise InvalidInput("--seconds", "goes with --cut only")
    if arguments.seed is not None and arguments.profile is None:
        raise InvalidInput("--seed", "goes with --profile only")
    if arguments.profile is not None:
        return {"do": "profile", "profile": arguments.profile, "seed": arguments.seed}
    if arguments.timeline is not None:
        return {"do": "timeline", "timeline": str(arguments.timeline.absolute())}
    if arguments.cut is not None:
        return {"do": "cut", "state": arguments.cut, "seconds": arguments.seconds}
    return {"do": "restore" if arguments.restore else "status"}
