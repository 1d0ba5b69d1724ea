"""The parts of a running tier, built once from its settings and handed to each other."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

from offramp.bundle import Manifest
from offramp.errors import InvalidInput, InvalidSettings
from offramp.rpc import StreamOptions, Tier, Tls
from offramp.serving.access import SecurePort
from offramp.serving.access.certificates import files_in
from offramp.serving.brownout import Brownout
from offramp.serving.bundles import Bundles, folder_in_use
from offramp.serving.engine import Engine
from offramp.serving.forwarding import Forwarder
from offramp.serving.opening import Opening, identify
from offramp.serving.peers import Peers
from offramp.serving.pushing import PushServicer
from offramp.serving.results import ResultsServicer
from offramp.serving.server import TierServer, TierServicer
from offramp.serving.settings import TierSettings, TlsSettings
from offramp.serving.store import NoStore, Store
from offramp.serving.tier_profile import REFERENCE, TierProfile, read_tier_profile
from offramp.serving.uplink import NoUplink, StreamUplink, Uplink
from offramp.telemetry import Exposition, TierMetrics
from offramp.telemetry.store import StoreMetrics

logger = logging.getLogger(__name__)
_FIRST_WINDOW_BYTES = 10 * 1460  # what TCP sends at once from the beginning (RFC 6928)
_MOST_PADDING_BYTES = 256 * 1024  # beyond, windows have grown as far as they will


@dataclass(slots=True)
class Parts:
    """A composed tier: start(), then stop(); or close() one that was never started."""

    settings: TierSettings
    engine: Engine
    uplink: Uplink
    server: TierServer
    profile: TierProfile
    bundles: Bundles
    store: Store | None = None
    forwarder: Forwarder | None = None
    listen: str = ""  # where it listens, once started
    metrics: str = ""
    health: str = ""  # the plaintext port for probes; "" where `listen` is one already
    _exposition: Exposition | None = None

    async def start(self) -> None:
        """Serve metrics and samples. Raises InvalidSettings for an address or a store that cannot be used."""
        if self.store is not None:
            await self.store.start()
        self.listen = self.server.bind(self.settings.listen)
        self.health = self.server.bind_health()
        self._exposition = Exposition(self.settings.metrics, self.engine.metrics.registry)
        self.metrics = self._exposition.address
        self.engine.held.batcher.start()
        self.uplink.start()
        if self.forwarder is not None:
            self.forwarder.start()
        await self.server.start()
        self.bundles.start()

    async def stop(self) -> None:
        """Answer what was accepted, then let go of everything."""
        await self.bundles.close()
        if self.forwarder is not None:
            await self.forwarder.close()
        await self.server.stop(self.settings.drain_s)
        await self.close()

    async def close(self) -> None:
        """Let go of uplink, inference thread, store and metrics."""
        await self.uplink.close()
        await self.bundles.close()
        self.bundles.let_go()
        if self.store is not None:
            await self.store.close()
        if self._exposition is not None:
            await asyncio.to_thread(self._exposition.close)

    def summary(self) -> str:
        """One line: bundle, policy, stages, plan, uplink, store, and the machine that it stands for."""
        held, uplink = self.engine.held, self.settings.uplink
        store = f", store {self.settings.store.folder}" if self.settings.store else ""
        rehearsal = f", stands for {self.profile}" if self.settings.tier_profile else ""
        return (
            f"bundle {held.bundle.manifest.name} {held.bundle.digest[:12]}, policy "
            f"{held.own_policy.name} {held.own_policy.id[:12]}, stages "
            f"{list(held.stages)} up to {held.plan.last_stage}, "
            f"uplink {uplink.address if uplink else 'none'}{store}{rehearsal}"
        )


def compose(tier: Tier, settings: TierSettings) -> Parts:
    """The parts of a tier, not yet started.

    Raises InvalidBundle for a bundle that cannot be trusted, and InvalidSettings for settings that do not fit it.
    """
    profile = read_tier_profile(settings.tier_profile)
    opening = Opening(folder_in_use(settings), tier, settings, profile)
    runner = opening.open()
    metrics = TierMetrics(str(tier), runner.stages)
    metrics.stand_for(
        profile.name,
        reference=REFERENCE,
        slowdown=profile.slowdown.value,
        watts=profile.watts_by_state,
    )
    brownout = None
    if settings.brownout.on:
        steps, told = opening.brownout_steps, metrics.brownout_step.set
        brownout = Brownout(settings.brownout, steps, told)
    held = opening.hold(runner, runner.warm_up(), metrics, brownout)
    identify(metrics, held)
    uplink = _uplink(settings, metrics, _sent_bytes(opening.bundle.manifest, opening.last_stage))
    store = _store(tier, settings, metrics)
    engine = Engine(
        tier=tier,
        held=held,
        uplink=uplink,
        metrics=metrics,
        most_in_flight=settings.limits.in_flight,
        keeper=store or NoStore(),
        answers=settings.answers,
        brownout=brownout,
    )
    servicer = TierServicer(
        engine, settings.limits, version=version("offramp"), batch=settings.inference.batch
    )
    bundles = Bundles(tier, settings, profile, engine, brownout)
    results = ResultsServicer(store, settings.limits.message_bytes)
    peers, secure = Peers(settings.limits, metrics), _secure_port(settings, metrics)
    server = TierServer(servicer, results, settings.limits, peers, secure)
    if settings.bundles.push:
        server.add(PushServicer(bundles, settings).handler())
    forwarder = _forwarder(settings, store, engine, uplink)
    return Parts(settings, engine, uplink, server, profile, bundles, store, forwarder)


def _store(tier: Tier, settings: TierSettings, metrics: TierMetrics) -> Store | None:
    if settings.store is None:
        return None
    if settings.uplink is None or settings.answers == "local-only":
        raise InvalidSettings("store.folder", "there is no uplink to get full answers from")
    thread = ThreadPoolExecutor(1, thread_name_prefix="store")
    return Store(settings.store, StoreMetrics(str(tier), metrics.registry), thread)


def _forwarder(
    settings: TierSettings, store: Store | None, engine: Engine, uplink: Uplink
) -> Forwarder | None:
    if store is None or settings.store is None:
        return None
    time_left_s = settings.limits.default_time_left_s  # as of any sample that is in no hurry
    return Forwarder(store, engine, uplink, rate=settings.store.rate, time_left_s=time_left_s)


def _sent_bytes(manifest: Manifest, last_stage: int) -> int:
    """What a sample that leaves this tier weighs, at most."""
    boundaries = manifest.network.boundaries
    if last_stage + 1 >= len(boundaries):
        return 0
    return sum(tensor.size_bytes for tensor in boundaries[last_stage + 1].tensors)


def _padding_bytes(sample_bytes: int) -> int:
    return min(sample_bytes, _MOST_PADDING_BYTES) if sample_bytes > _FIRST_WINDOW_BYTES else 0


def _secure_port(settings: TierSettings, metrics: TierMetrics) -> SecurePort | None:
    if not settings.tls.folder:
        return None
    return SecurePort(settings.tls, metrics, handshake_s=settings.limits.handshake_s)


def _uplink_tls(settings: TlsSettings, name: str) -> Tls | None:
    if not settings.folder:
        return None
    try:
        return Tls(*files_in(settings.folder), name=name)
    except InvalidInput as exc:
        raise InvalidSettings("tls", str(exc)) from exc


def _uplink(settings: TierSettings, metrics: TierMetrics, sample_bytes: int) -> Uplink:
    if settings.uplink is None or settings.answers == "local-only":
        return NoUplink()
    options = StreamOptions(
        message_bytes=settings.limits.message_bytes,
        most_backoff_s=settings.uplink.most_backoff_s,
        keepalive_s=settings.uplink.keepalive_s,
        keepalive_timeout_s=settings.uplink.keepalive_timeout_s,
        padding_bytes=_padding_bytes(sample_bytes),
        tls=_uplink_tls(settings.tls, settings.uplink.name),
    )
    disk_s = 0.0 if settings.store is None else settings.store.most_wait_s
    return StreamUplink(settings.uplink, options, metrics, disk_s=disk_s)
