"""`offramp link validate`: does an engine, on this machine, do what a profile's timeline says?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import get_args

from offramp.cli.extra import needs_extra
from offramp.errors import InvalidInput
from offramp.links.engines.choosing import Name, choose
from offramp.links.validation.session import Report, validate

_LEAST_SECONDS = 1.0


def add_validate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "validate",
        help="measure an engine against a profile",
        description="Measure round trips, goodput, outages and, over packets, loss, the bare path first. "
        "On a machine with nothing else to do: the engine's own lateness counts.",
    )
    parser.add_argument("profile", help="name, or a file *.yaml")
    parser.add_argument("--engine", required=True, choices=get_args(Name))
    parser.add_argument("--probes", type=int, default=2000, metavar="N", help="round trips (2000)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="for the probes; the rest takes 80 (40)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the timeline (0)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each quantity; 1 where one is out of its bounds. Raises InvalidInput naming the flag that is wrong."""
    if not _LEAST_SECONDS <= arguments.seconds <= 3600:
        raise InvalidInput("--seconds", f"{arguments.seconds:g} is not in 1 to 3600")
    if not 100 <= arguments.probes <= 100_000:
        raise InvalidInput("--probes", f"{arguments.probes} is not in 100 to 100000")
    with needs_extra("link", "links"):
        from offramp.links.compiling import compile_profile
        from offramp.links.profile import load_profile
    profile = load_profile(arguments.profile)
    # The rows go on for as long as the probes do, and the quantiles are of those.
    timeline = compile_profile(
        profile, seed=arguments.seed, duration_s=max(60.0, arguments.seconds + 5)
    )
    report = validate(
        timeline,
        choose(arguments.engine),
        seconds=arguments.seconds,
        probes=arguments.probes,
        tell=lambda what: print(f"measuring {what}", file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    return 0 if report.passed else 1


def _print(report: Report) -> None:
    print(" ".join(f"{name}={value}" for name, value in report.facts.items()))
    print(f"{'quantity':<28} {'expected':>10} {'measured':>10} {'from':>10} {'to':>10}")
    for check in report.checks:
        figures = (check.expected, check.measured, check.low, check.high)
        cells = " ".join(f"{figure:>10.4g}" for figure in figures)
        verdict = "pass" if check.passed else "FAIL"
        print(f"{check.quantity:<28} {cells} {check.unit:<7} {verdict}")
    for quantity, reason in report.skipped.items():
        print(f"{quantity:<28} not measured: {reason}")
