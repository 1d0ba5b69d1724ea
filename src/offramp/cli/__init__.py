"""The command `offramp`: one file a verb, each with add(subparsers) and a function that returns an exit code.

Beside the verbs: how they reach a tier that has TLS on (`access`), what the demo shows (`live`, `picture`), and what a
verb says that lacks torch (`extra`).

Results go to stdout, messages to stderr. Exit codes: 0, 1 for what could not be done, 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import version

from offramp.cli import (
    bundle,
    calibrate,
    demo,
    evaluate,
    export,
    infer,
    link,
    place,
    quantize,
    results,
    train,
)
from offramp.errors import BundleMismatch, InvalidInput, OfframpError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(
        "offramp", description="Early-exit inference across a device, a fog node and a cloud."
    )
    parser.add_argument("--version", action="version", version=version("offramp"))
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in (
        *(place, train, export, quantize, bundle, calibrate, evaluate),
        *(infer, results, demo, link),
    ):
        verb.add(verbs)
    arguments = parser.parse_args(argv)
    code = 0
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        if not (unread := [one for one in (sys.stdout, sys.stderr) if _is_unread(one.fileno())]):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:  # or its last flush would fail too
            os.dup2(nowhere, stream.fileno())
    return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        code: int = arguments.run(arguments)
    except OfframpError as exc:
        sys.stderr.write(f"offramp: {exc}\n")
        return 2 if isinstance(exc, (InvalidInput, BundleMismatch)) else 1
    except KeyboardInterrupt:
        return 130
    return code


def _is_unread(descriptor: int) -> bool:
    """Whether whoever read it has gone, as `head` does once it has seen enough."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
