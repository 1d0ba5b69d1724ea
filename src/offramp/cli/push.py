"""`offramp bundle push|keygen|sign`: give running tiers another bundle, signed where they ask for that."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from offramp.address import checked_address
from offramp.bundle import Bundle, load_bundle
from offramp.bundle.loading import MANIFEST, SUMS
from offramp.bundle.signing import SIGNATURE, make_keys, sign
from offramp.cli import access
from offramp.cli.outputs import check_output
from offramp.errors import InvalidInput, OfframpError, TierUnavailable
from offramp.rpc import StreamOptions
from offramp.rpc.v1 import bundles_pb2 as pb
from offramp.rpc.v1 import bundles_pb2_grpc, tier_pb2, tier_pb2_grpc

_PART_BYTES = 2**20


def add(verbs: Any) -> None:
    """Register the verbs below `offramp bundle`."""
    push = verbs.add_parser(
        "push", help="give running tiers another bundle, in the order named: the deepest first"
    )
    push.add_argument("bundle", type=Path, help="the bundle's folder")
    push.add_argument("--to", action="append", required=True, metavar="HOST:PORT")
    push.add_argument(
        "--other-input",
        action="store_true",
        help="push a network of other inputs, too: whoever asks as until now is refused from then on",
    )
    push.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="of each")
    access.add_flags(push)
    push.set_defaults(run=run_push)
    keygen = verbs.add_parser("keygen", help="make the key of a deployment, and its public one")
    keygen.add_argument("key", type=Path, help="where the private key goes; .pub beside it")
    keygen.set_defaults(run=run_keygen)
    signing = verbs.add_parser("sign", help="sign a bundle with the key of a deployment")
    signing.add_argument("bundle", type=Path, help="the bundle's folder")
    signing.add_argument("--key", type=Path, required=True, metavar="FILE")
    signing.set_defaults(run=run_sign)


def run_push(args: argparse.Namespace) -> int:
    """One tier after the other; the first that refuses ends it. Raises what it said, and who has the bundle by then.

    Before any of them has it, all are asked what inputs they take.
    """
    for target in args.to:
        checked_address("--to", target)
    bundle = load_bundle(args.bundle)
    options = StreamOptions(tls=access.tls_of(args))
    if not args.other_input:
        for target in args.to:
            asyncio.run(_check_input(bundle, target, options, args.timeout))
    done: list[str] = []
    for target in args.to:
        try:
            said = asyncio.run(_push(bundle, target, options, args.timeout))
        except OfframpError as exc:
            if done:
                print(f"in use by now at {', '.join(done)}")
            raise exc
        done.append(target)
        print(f"{target}: {said.name} {said.network[:12]} is in use, stages {list(said.stages)}")
    return 0


def run_keygen(args: argparse.Namespace) -> int:
    """Print where the public key is."""
    print(f"{make_keys(args.key)}: for `bundles.verify_key`; keep {args.key} to yourself")
    return 0


def run_sign(args: argparse.Namespace) -> int:
    """Sign a bundle whose hashes are right."""
    load_bundle(args.bundle)
    check_output("bundle", args.bundle / SIGNATURE)
    print(f"{sign(args.bundle, args.key)} written")
    return 0


def _parts(bundle: Bundle) -> Iterator[pb.BundlePart]:
    stages = [bundle.stage_path(k).name for k in bundle.held]
    signature = [SIGNATURE] if (bundle.folder / SIGNATURE).exists() else []
    for name in (SUMS, *signature, MANIFEST, *stages):
        with (bundle.folder / name).open("rb") as file:
            while data := file.read(_PART_BYTES):
                yield pb.BundlePart(file=name, data=data)


async def _check_input(
    bundle: Bundle, target: str, options: StreamOptions, timeout_s: float
) -> None:
    takes = bundle.manifest.network.takes
    async with options.open_channel(target) as channel:
        stub: Any = tier_pb2_grpc.TierStub(channel)  # type: ignore[no-untyped-call]
        try:
            described = await stub.Describe(tier_pb2.DescribeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise TierUnavailable("unreachable", f"{target}: {exc.details()}") from exc
    for now in described.networks[:1]:
        if (tuple(now.input_shape), now.input_dtype) != (takes.shape, takes.dtype):
            there = f"{now.input_dtype} {list(now.input_shape)}"
            text = f"not given, but {target} takes {there} and the bundle {takes.dtype} {list(takes.shape)}"
            raise InvalidInput("--other-input", text)


async def _push(
    bundle: Bundle, target: str, options: StreamOptions, timeout_s: float
) -> pb.PushResponse:
    async def parts() -> AsyncIterator[pb.BundlePart]:
        for part in _parts(bundle):
            yield part

    async with options.open_channel(target) as channel:
        stub: Any = bundles_pb2_grpc.BundlesStub(channel)  # type: ignore[no-untyped-call]
        try:
            response: pb.PushResponse = await stub.Push(parts(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            text = f"{target}: {exc.details()}"
            if exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise InvalidInput(target, f"refused: {exc.details()}") from exc
            if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                text = f"{target}: takes no bundles: its setting bundles.push is off"
            raise TierUnavailable("unreachable", text) from exc
    return response
