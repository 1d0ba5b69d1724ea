"""The flags of a verb that asks a running tier: what it trusts, and what it shows of itself."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from offramp.errors import InvalidInput
from offramp.rpc import Tls

_VARIABLE = "OFFRAMP_TOKEN"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Register them. A token is no flag: everybody on the machine could read it in the list of processes."""
    group = parser.add_argument_group("TLS, where the tier has it on")
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="the authority that its certificate is of"
    )
    group.add_argument("--cert", type=Path, metavar="FILE", help="the certificate to show")
    group.add_argument("--key", type=Path, metavar="FILE", help="the key of --cert")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"the token to show, where it asks for one (default: ${_VARIABLE})",
    )
    group.add_argument(
        "--tls-name",
        default="",
        metavar="NAME",
        help="what its certificate must say (default: the host of its address)",
    )


def tls_of(arguments: argparse.Namespace) -> Tls | None:
    """What the flags say; None without --ca. Raises InvalidInput naming the flag or file."""
    if arguments.ca is None:
        for flag in ("cert", "key", "token_file", "tls_name"):
            if getattr(arguments, flag):
                text = "needs --ca; without TLS it would travel in the clear"
                raise InvalidInput(f"--{flag.replace('_', '-')}", text)
        return None
    token = os.environ.get(_VARIABLE, "")
    if arguments.token_file is not None:
        token = _token_in(arguments.token_file)
    return Tls(arguments.ca, arguments.cert, arguments.key, token=token, name=arguments.tls_name)


def _token_in(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise InvalidInput(str(file), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInput(str(file), "holds no token") from exc
