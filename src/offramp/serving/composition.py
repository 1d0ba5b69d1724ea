"""The parts of a running tier, built once from its settings and handed to each other."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from offramp.bundle import Manifest, load_bundle
from offramp.errors import InvalidInput, InvalidSettings
from offramp.rpc import StreamOptions, Tier, Tls
from offramp.serving.access import SecurePort
from offramp.serving.access.certificates import files_in
from offramp.serving.batching import Batcher
from offramp.serving.brownout import Brownout
from offramp.serving.engine import Engine
from offramp.serving.forwarding import Forwarder
from offramp.serving.held import Held, Plan
from offramp.serving.results import ResultsServicer
from offramp.serving.runner import StageRunner
from offramp.serving.server import TierServer, TierServicer
from offramp.serving.settings import TierSettings, TlsSettings
from offramp.serving.store import NoStore, Store
from offramp.serving.tier_profile import REFERENCE, TierProfile, read_tier_profile
from offramp.serving.uplink import NoUplink, StreamUplink, Uplink
from offramp.serving.work import run_stage
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

    async def stop(self) -> None:
        """Answer what was accepted, then let go of everything."""
        if self.forwarder is not None:
            await self.forwarder.close()
        await self.server.stop(self.settings.drain_s)
        await self.close()

    async def close(self) -> None:
        """Let go of uplink, inference thread, store and metrics."""
        await self.uplink.close()
        self.engine.held.batcher.close()
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
    bundle = load_bundle(settings.bundle)
    manifest = bundle.manifest
    last, stages = settings.plan.last_stage, len(manifest.network.stages)
    if last is None:
        last = stages - 1
    if last >= stages:
        raise InvalidSettings("plan.last_stage", f"{last}, but the last stage is {stages - 1}")
    if last >= 0 and last not in bundle.held:
        text = f"{last}, but {bundle.folder} holds the stages {list(bundle.held)} only"
        raise InvalidSettings("plan.last_stage", text)
    policy = manifest.policy(settings.policy)
    if policy is None:
        names = ", ".join(p.name for p in manifest.policies)
        raise InvalidSettings("policy", f"{settings.policy!r} is none of the bundle's: {names}")
    own = (0,) if tier is Tier.DEVICE else ()  # a device can always answer, whatever the plan
    wanted = sorted({*own, *(k for k in bundle.held if k <= last)})
    profile = read_tier_profile(settings.tier_profile)
    profile.check_memory(bundle, wanted)
    runner = StageRunner(bundle, wanted, settings.inference)
    metrics = TierMetrics(str(tier), runner.stages)
    metrics.identify(
        version=version("offramp"), bundle=manifest.name, network=bundle.digest, policy=policy.id
    )
    slowdown = profile.slowdown.value
    metrics.stand_for(
        profile.name, reference=REFERENCE, slowdown=slowdown, watts=profile.watts_by_state
    )
    batcher = Batcher(
        partial(run_stage, runner, manifest, slowdown=slowdown),
        most=settings.inference.batch,
        metrics=metrics,
        took={k: seconds * slowdown for k, seconds in runner.warm_up().items()},
    )
    uplink = _uplink(settings, metrics, _sent_bytes(manifest, last))
    brownout = None
    if settings.brownout.on:
        most = max((len(one.steps) for one in manifest.brownouts), default=0)
        if not most:
            text = f"{manifest.name} has no steps prepared: `offramp calibrate` makes them"
            raise InvalidSettings("brownout.on", text)
        brownout = Brownout(settings.brownout, most, metrics.brownout_step.set)
    held = Held(
        bundle=bundle,
        own_policy=policy,
        plan=Plan(last_stage=last, epoch=settings.plan.epoch),
        stages=runner.stages,
        batcher=batcher,
        brownout=brownout,
    )
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
    results = ResultsServicer(store, settings.limits.message_bytes)
    server = TierServer(servicer, results, settings.limits, _secure_port(settings, metrics))
    forwarder = _forwarder(settings, store, engine, uplink)
    return Parts(settings, engine, uplink, server, profile, store, forwarder)


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
    return StreamUplink(settings.uplink, options, metrics)
