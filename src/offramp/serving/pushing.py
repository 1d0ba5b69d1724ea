"""The service that takes a bundle over the wire: bounded, into a folder of its own, in use once it has been checked.

parts --> bundles.folder/.incoming-x --checks, swap--> bundles.folder/DIGEST-x, and `current` is a link to it
                     |
                     +--> refused: deleted
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc

from offramp.bundle.loading import MANIFEST, SUMS
from offramp.bundle.signing import SIGNATURE
from offramp.errors import DeadlineExceeded, InvalidInput, InvalidSettings, TierUnavailable
from offramp.rpc.status import code_of, status_of
from offramp.rpc.v1 import bundles_pb2 as pb
from offramp.serving.access import current_caller
from offramp.serving.bundles import CURRENT, Bundles
from offramp.serving.held import Held
from offramp.serving.parsing import message_from
from offramp.serving.settings import TierSettings

logger = logging.getLogger(__name__)
_SERVICE = pb.DESCRIPTOR.services_by_name["Bundles"].full_name
_NAME = re.compile(
    rf"{re.escape(SUMS)}|{re.escape(SIGNATURE)}|{re.escape(MANIFEST)}|[A-Za-z0-9_-][A-Za-z0-9_.-]*\.onnx"
)
_MOST_FILES = 1024
_INCOMING = ".incoming-"
_MADE = re.compile(
    rf"(?:[0-9a-f]{{12}}-|{re.escape(_INCOMING)})\w+"
)  # the folders that pushes make


class _NotKept(Exception):
    """A bundle is in use and will not be at the next start."""


class PushServicer:
    """Offers the bundles of one tier. Raises InvalidSettings where its folder cannot be written."""

    def __init__(self, bundles: Bundles, settings: TierSettings) -> None:
        self._bundles = bundles
        self._folder, self._most = Path(settings.bundles.folder), settings.bundles.most_bytes
        self._own = settings.bundle
        self._knows_callers = bool(settings.tls.folder)
        self._idle_s = settings.limits.idle_s
        self._is_busy = False
        there = next(
            one for one in (self._folder, *self._folder.absolute().parents) if one.exists()
        )
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise InvalidSettings("bundles.folder", f"{there} is no folder that can be written")

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to a server."""
        push = grpc.stream_unary_rpc_method_handler(
            self.Push, response_serializer=pb.PushResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Push": push})

    async def Push(self, parts: AsyncIterator[bytes], context: Any) -> pb.PushResponse:  # noqa: N802
        """Take a bundle into use."""
        caller = current_caller()
        if self._knows_callers and (caller is None or not caller.may_push):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not allowed to push a bundle")
        try:
            with self._alone():
                held = await self._take(parts)
        except (InvalidInput, DeadlineExceeded, TierUnavailable) as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        except _NotKept as exc:
            await context.abort(grpc.StatusCode.INTERNAL, str(exc))
        except OSError as exc:
            text = f"bundles.folder: cannot be written: {exc.strerror}"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        bundle = held.bundle
        return pb.PushResponse(name=bundle.manifest.name, network=bundle.digest, stages=held.stages)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The only push. Raises TierUnavailable where there is one already."""
        if self._is_busy:
            raise TierUnavailable("overloaded", "a push is under way here")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    async def _take(self, parts: AsyncIterator[bytes]) -> Held:
        self._folder.mkdir(parents=True, exist_ok=True)
        incoming = Path(tempfile.mkdtemp(dir=self._folder, prefix=_INCOMING))
        try:
            await self._write(parts, incoming)
            held = await self._bundles.swap(incoming)
            try:
                await asyncio.to_thread(self._keep, incoming, held.bundle.digest)
            except OSError as exc:
                text = f"bundles.folder: cannot be written: {exc.strerror}"
                logger.warning("the next start will not find the bundle in use: %s", text)
                raise _NotKept(
                    f"it is in use, but the next start will not find it: {text}"
                ) from exc
        finally:
            await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
        return held

    async def _write(self, parts: AsyncIterator[bytes], folder: Path) -> None:
        total, names = 0, set()
        while (data := await self._next(parts)) is not None:
            part = message_from(pb.BundlePart, data)
            if _NAME.fullmatch(part.file) is None:
                raise InvalidInput("file", f"{part.file[:64]!r} is no name of a bundle's file")
            total += len(part.data)
            names.add(part.file)
            if total > self._most or len(names) > _MOST_FILES:
                text = f"more than {self._most} bytes or {_MOST_FILES} files"
                raise InvalidInput("data", text)
            await asyncio.to_thread(_append, folder / part.file, part.data)

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """None after the last. Raises DeadlineExceeded where nothing comes for as long as a stream may be idle."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(parts, None)
        except TimeoutError:
            raise DeadlineExceeded(f"nothing came for {self._idle_s:g} s") from None

    def _keep(self, incoming: Path, digest: str) -> None:
        """Let the next start find it; what pushes made goes, but for the former bundle and that of the settings."""
        kept = self._folder / f"{digest[:12]}-{incoming.name.removeprefix(_INCOMING)}"
        incoming.rename(kept)
        current, link = self._folder / CURRENT, self._folder / f".{CURRENT}.new"
        spared = {kept.name, current.resolve().name, self._own.resolve().name}
        link.unlink(missing_ok=True)
        link.symlink_to(kept.name)
        link.replace(current)
        for other in self._folder.iterdir():
            if _MADE.fullmatch(other.name) and other.name not in spared:
                shutil.rmtree(other, ignore_errors=True)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
