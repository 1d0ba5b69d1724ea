"""Another bundle comes into use while the tier runs: checked, tried, opened, swapped in; the former stays for a while.

a watched folder that changed --+
a push                        --+--> checks --> child process --> opened in a thread --> Engine.swap()
                                        |             |                                     |
                                        +-------------+--> refused: all stays as it is      +--> the former is
                                                           held on while samples name it, then let go
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable
from pathlib import Path

from offramp.bundle.loading import SUMS
from offramp.errors import InvalidSettings, OfframpError
from offramp.rpc import Tier
from offramp.serving.brownout import Brownout
from offramp.serving.engine import Engine
from offramp.serving.held import Held
from offramp.serving.opening import Opening, identify
from offramp.serving.settings import TierSettings
from offramp.serving.tier_profile import TierProfile
from offramp.serving.trial import tried

logger = logging.getLogger(__name__)
CURRENT = "current"  # in bundles.folder: a link to the pushed bundle in use
_LOOK_S = 0.5  # how often it is looked whether a bundle can go


def folder_in_use(settings: TierSettings) -> Path:
    """The bundle that a tier starts with: the one pushed last, else its setting. Raises InvalidSettings."""
    bundles = settings.bundles
    if settings.tls.folder and (bundles.push or bundles.watch_s) and not bundles.verify_key:
        text = "is to be named where TLS is on and bundles can change: only signed ones are taken"
        raise InvalidSettings("bundles.verify_key", text)
    folder = settings.bundle
    if bundles.push and (pushed := Path(bundles.folder, CURRENT)).exists():
        folder = pushed.resolve()
        logger.warning("%s, which was pushed, is in use in place of %s", folder, settings.bundle)
    return folder


class Bundles:
    """Those of one tier. start() it in a running event loop; close() it, and let_go() of what is held at the end."""

    def __init__(
        self,
        tier: Tier,
        settings: TierSettings,
        profile: TierProfile,
        engine: Engine,
        brownout: Brownout | None,
    ) -> None:
        self._tier, self._settings, self._profile = tier, settings, profile
        self._engine, self._brownout = engine, brownout
        self._one_at_a_time = asyncio.Lock()
        self._gone: list[Held] = []  # no sample can come in for them any more
        self._tasks: list[asyncio.Task[None]] = []
        self._seen = _looks_of(settings.bundle) if settings.bundles.watch_s else None

    def start(self) -> None:
        """Look after bundles that are to go, and at the folder where the settings say so."""
        self._tasks = [asyncio.create_task(self._clear(), name="former bundles")]
        if self._settings.bundles.watch_s:
            self._tasks.append(asyncio.create_task(self._watch(), name="watched bundle"))

    async def close(self) -> None:
        """Swap no more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def let_go(self) -> None:
        """Close whatever is held; what waits in it fails."""
        for held in (self._engine.held, self._engine.former, *self._gone):
            if held is not None:
                held.batcher.close()

    async def swap(self, folder: Path) -> Held:
        """Take the bundle in a folder into use; returns what is in use then.

        Raises InvalidBundle or InvalidSettings where it is refused, and then nothing has changed.
        """
        swaps = self._engine.metrics.bundle_swaps
        async with self._one_at_a_time:
            try:
                held = await self._opened(folder)
            except Exception as exc:
                swaps["refused"].add()
                logger.warning("%s is refused, and the bundle in use stays: %s", folder, exc)
                raise
            held.batcher.start()
            gone = self._engine.swap(held)
            if gone is not None:
                self._gone.append(gone)
            identify(self._engine.metrics, held)
            swaps["done"].add()
            name, digest = held.bundle.manifest.name, held.bundle.digest[:12]
            logger.info("bundle %s %s from %s is in use", name, digest, folder)
            return held

    async def _opened(self, folder: Path) -> Held:
        opening = await asyncio.to_thread(
            Opening, folder, self._tier, self._settings, self._profile
        )
        await tried(opening.bundle, opening.wanted, self._settings.inference)
        runner = await asyncio.to_thread(opening.open)
        took = await asyncio.to_thread(runner.warm_up)
        return opening.hold(runner, took, self._engine.metrics, self._brownout)

    async def _watch(self) -> None:
        every_s, folder = self._settings.bundles.watch_s, self._settings.bundle
        while True:
            await asyncio.sleep(every_s)
            looks = await asyncio.to_thread(_looks_of, folder)
            if looks == self._seen or looks is None:
                continue  # None: it is being replaced
            self._seen = looks
            try:
                await self.swap(folder.resolve())
            except OfframpError:
                continue  # said already; it may be half written, and is looked at again once it has changed
            except Exception:  # a bug, which must not end it
                logger.exception("the bundle in %s could not be taken into use", folder)

    async def _clear(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, self._settings.bundles.keep_s))
            await self._clear_once()  # which keeps hold of nothing once it has returned

    async def _clear_once(self) -> None:
        former = self._engine.former
        if former is not None and not former.users:
            unasked_s = time.monotonic() - self._engine.former_asked
            if unasked_s >= self._settings.bundles.keep_s:
                self._engine.former = None
                self._gone.append(former)
        for held in [one for one in self._gone if not one.users]:
            self._gone.remove(held)
            await asyncio.to_thread(held.batcher.close)
            logger.info("bundle %s is let go", held.bundle.digest[:12])


def _looks_of(folder: Path) -> Hashable | None:
    """What tells one state of a folder from another; None where no bundle is there."""
    try:
        files = sorted(folder.resolve().iterdir())
        states = [(one.name, one.stat()) for one in files]
        sums = (folder / SUMS).read_bytes()
    except OSError:
        return None
    return sums, tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in states)
