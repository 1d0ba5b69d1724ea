"""`offramp results`: what a device has kept of samples that it answered degraded, and their full answers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from offramp.address import checked_address
from offramp.cli import access
from offramp.cli.classes import Classes
from offramp.client import Client
from offramp.errors import InvalidInput
from offramp.rpc import Answer
from offramp.rpc.stored import Stored

_MOST_CURSOR = 2**63 - 1


def add(verbs: Any) -> None:
    """Register the verb."""
    parser = verbs.add_parser("results", help="full answers to what a device answered degraded")
    parser.add_argument("--device", default="127.0.0.1:7101", metavar="HOST:PORT")
    parser.add_argument(
        "--after", type=int, default=0, metavar="CURSOR", help="only results behind this one"
    )
    parser.add_argument("--follow", action="store_true", help="wait for more, until interrupted")
    parser.add_argument(
        "--pending", action="store_true", help="first those that wait for their full answer"
    )
    parser.add_argument(
        "--release", action="store_true", help="let the device drop what has been printed"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    access.add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line a sample, in the order in which they had their full answers.

    Raises InvalidInput for a flag, and what Client.results raises.
    """
    if not 0 <= arguments.after <= _MOST_CURSOR:
        raise InvalidInput("--after", f"{arguments.after} is no cursor")
    checked_address("--device", arguments.device)
    with Client(arguments.device, tls=access.tls_of(arguments)) as client:
        classes = Classes(client.describe())
        found = client.results(
            after=arguments.after, follow=arguments.follow, waiting=arguments.pending
        )
        _print(client, found, classes, arguments)
    return 0


def _print(
    client: Client,
    found: Iterable[Stored],
    classes: Classes,
    arguments: argparse.Namespace,
) -> None:
    cursor = 0
    try:
        for stored in found:
            line = (
                json.dumps(_as_json(stored, classes)) if arguments.json else _line(stored, classes)
            )
            sys.stdout.write(line + "\n")
            if arguments.follow:
                sys.stdout.flush()
            cursor = max(cursor, stored.cursor)
    finally:
        sys.stdout.flush()  # before anything is dropped
        if arguments.release and cursor:
            client.release(cursor)


def _line(stored: Stored, classes: Classes) -> str:
    time = datetime.fromtimestamp(stored.stored_at).astimezone().isoformat(timespec="seconds")
    first = stored.degraded
    was = f"was {_said(first, classes)}, {first.degraded})"
    if stored.full is None:
        tries = f" after {stored.tries} tries" if stored.tries else ""
        return f"-: {stored.id} of {time}: waits{tries}; {was}"
    if isinstance(stored.full, Answer):
        return f"{stored.cursor}: {stored.id} of {time}: {_said(stored.full, classes)}); {was}"
    return f"{stored.cursor}: {stored.id} of {time}: failed: {stored.full}; {was}"


def _said(answer: Answer, classes: Classes) -> str:
    return f"{classes.name(answer)} {answer.confidence:.3f} ({answer.tier}, exit {answer.exit}"


def _as_json(stored: Stored, classes: Classes) -> dict[str, Any]:
    full = stored.full
    return {
        "cursor": stored.cursor,
        "id": str(stored.id),
        "stored_at": stored.stored_at,
        "finished_at": stored.finished_at,
        "tries": stored.tries,
        "degraded": _answer_as_json(stored.degraded, classes),
        "full": _answer_as_json(full, classes) if isinstance(full, Answer) else None,
        "failed": None if full is None or isinstance(full, Answer) else str(full),
    }


def _answer_as_json(answer: Answer, classes: Classes) -> dict[str, Any]:
    return {
        "label": answer.label,
        "class": classes.name(answer),
        "confidence": round(answer.confidence, 6),
        "probabilities": [round(float(p), 6) for p in answer.probabilities],
        "exit": answer.exit,
        "tier": str(answer.tier),
        "degraded": answer.degraded,
        "certified": answer.certified,
        "network": answer.network,
        "policy": answer.policy,
    }
