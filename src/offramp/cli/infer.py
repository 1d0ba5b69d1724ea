"""`offramp infer`: ask a running device about files of images, or of raw tensors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from offramp.address import checked_address
from offramp.cli import access
from offramp.cli.classes import Classes
from offramp.client import Client, Timed
from offramp.errors import BundleMismatch, InvalidInput, OfframpError
from offramp.rpc import Answer

_MOST_DEADLINE_S = 4000  # the wire's field holds 71 minutes


def add(verbs: Any) -> None:
    """Register the verb."""
    parser = verbs.add_parser("infer", help="ask a running device about images or raw tensors")
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="PNG, JPEG or WebP, or a .npy file that holds one sample",
    )
    parser.add_argument("--device", default="127.0.0.1:7101", metavar="HOST:PORT")
    parser.add_argument("--deadline", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--policy", default="", help="an exit policy's name or id")
    parser.add_argument(
        "--local", action="store_true", help="the device's own answer, without a hop"
    )
    parser.add_argument(
        "--early", action="store_true", help="also the answer so far, before one from deeper"
    )
    parser.add_argument("--in-flight", type=int, default=8, metavar="N")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    access.add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line a file, in the order given, after those of answers so far.

    Returns 2 where one was refused, 1 where no answer came. Raises InvalidInput for a flag, and TierUnavailable where
    the device does not say what it holds.
    """
    if arguments.in_flight < 1:
        raise InvalidInput("--in-flight", f"{arguments.in_flight} is below 1")
    if not 0 < arguments.deadline <= _MOST_DEADLINE_S:
        raise InvalidInput(
            "--deadline", f"{arguments.deadline:g} is not above 0 and at most {_MOST_DEADLINE_S} s"
        )
    if arguments.early and arguments.local:
        raise InvalidInput("--early", "with --local there is no later answer")
    checked_address("--device", arguments.device)
    tls = access.tls_of(arguments)
    with Client(arguments.device, policy=arguments.policy, tls=tls) as client:
        classes = Classes(client.describe(arguments.deadline))
        outcomes = client.infer_many(
            arguments.images,
            in_flight=arguments.in_flight,
            deadline_s=arguments.deadline,
            local=arguments.local,
            early=partial(_print_early, arguments, classes) if arguments.early else None,
        )
        return _print(arguments, classes, sorted(outcomes, key=lambda timed: timed.index))


def _print_early(
    arguments: argparse.Namespace, classes: Classes, index: int, answer: Answer
) -> None:
    path = arguments.images[index]
    line = f"{path}: {classes.name(answer)} {answer.confidence:.3f} so far (exit {answer.exit})"
    if arguments.json:
        line = json.dumps({**_as_json(path, answer, classes, None), "final": False})
    with suppress(BrokenPipeError):  # in the client's thread; this one's answer meets it again
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _print(arguments: argparse.Namespace, classes: Classes, outcomes: Sequence[Timed]) -> int:
    code = 0
    for timed in outcomes:
        path, outcome = arguments.images[timed.index], timed.outcome
        if isinstance(outcome, OfframpError):
            said = str(outcome)
            named = said if said.startswith((f"{path}:", f"{path} ")) else f"{path}: {said}"
            sys.stderr.write(f"offramp: {named}\n")
            code = max(code, 2 if isinstance(outcome, (InvalidInput, BundleMismatch)) else 1)
        elif arguments.json:
            sys.stdout.write(json.dumps(_as_json(path, outcome, classes, timed.latency_s)) + "\n")
        else:
            degraded = f", degraded: {outcome.degraded}" if outcome.degraded else ""
            if outcome.id is not None:
                degraded += f", stored: {outcome.id}"
            sys.stdout.write(
                f"{path}: {classes.name(outcome)} {outcome.confidence:.3f} "
                f"({outcome.tier}, exit {outcome.exit}, {timed.latency_s * 1e3:.1f} ms{degraded})\n"
            )
    return code


def _as_json(
    path: Path, answer: Answer, classes: Classes, latency_s: float | None
) -> dict[str, Any]:
    return {
        "image": str(path),
        "label": answer.label,
        "class": classes.name(answer),
        "confidence": round(answer.confidence, 6),
        "probabilities": [round(float(p), 6) for p in answer.probabilities],
        "exit": answer.exit,
        "tier": str(answer.tier),
        "degraded": answer.degraded,
        "stored": None if answer.id is None else str(answer.id),
        "certified": answer.certified,
        "network": answer.network,
        "policy": answer.policy,
        "plan_epoch": answer.plan_epoch,
        "latency_ms": None if latency_s is None else round(latency_s * 1e3, 3),
        "trail": [{**leg._asdict(), "tier": str(leg.tier)} for leg in answer.trail],
    }
