"""A bundle's folder as something that a tier can serve: checked against its settings, opened, warmed up.

folder --load_bundle, signed?--> Bundle --fits plan, policy, machine?--> stages opened --> Batcher --> Held
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.signing import check_signature
from offramp.errors import InvalidSettings
from offramp.exits import ExitPolicy
from offramp.rpc import Tier
from offramp.serving.batching import Batcher
from offramp.serving.brownout import Brownout
from offramp.serving.held import Held, Plan
from offramp.serving.runner import StageRunner
from offramp.serving.settings import TierSettings
from offramp.serving.tier_profile import TierProfile
from offramp.serving.work import run_stage
from offramp.telemetry import TierMetrics


class Opening:
    """One bundle on its way into a tier. Raises InvalidBundle where it cannot be trusted, and InvalidSettings for
    settings that do not fit it."""

    def __init__(
        self, folder: Path, tier: Tier, settings: TierSettings, profile: TierProfile
    ) -> None:
        key = settings.bundles.verify_key
        check = partial(check_signature, public=Path(key)) if key else None
        self.bundle: Bundle = load_bundle(folder, check)
        self._settings, self._profile = settings, profile
        self.last_stage = self._last_stage()
        self.policy = self._policy()
        own = (0,) if tier is Tier.DEVICE else ()  # a device can always answer, whatever the plan
        self.wanted = sorted({*own, *(k for k in self.bundle.held if k <= self.last_stage)})
        profile.check_memory(self.bundle, self.wanted)
        if settings.brownout.on and not self.brownout_steps:
            text = (
                f"{self.bundle.manifest.name} has no steps prepared: `offramp calibrate` makes them"
            )
            raise InvalidSettings("brownout.on", text)

    @property
    def brownout_steps(self) -> int:
        """How many steps a brown-out may have."""
        return max((len(one.steps) for one in self.bundle.manifest.brownouts), default=0)

    def _last_stage(self) -> int:
        last, stages = self._settings.plan.last_stage, len(self.bundle.manifest.network.stages)
        if last is None:
            last = stages - 1
        if last >= stages:
            raise InvalidSettings("plan.last_stage", f"{last}, but the last stage is {stages - 1}")
        if last >= 0 and last not in self.bundle.held:
            held = list(self.bundle.held)
            text = f"{last}, but {self.bundle.folder} holds the stages {held} only"
            raise InvalidSettings("plan.last_stage", text)
        return last

    def _policy(self) -> ExitPolicy:
        manifest, wanted = self.bundle.manifest, self._settings.policy
        policy = manifest.policy(wanted)
        if policy is None:
            names = ", ".join(p.name for p in manifest.policies)
            raise InvalidSettings("policy", f"{wanted!r} is none of the bundle's: {names}")
        return policy

    def open(self) -> StageRunner:
        """Its stages; that takes a while, and a thread may do it."""
        return StageRunner(self.bundle, self.wanted, self._settings.inference)

    def hold(
        self,
        runner: StageRunner,
        took: dict[int, float],
        metrics: TierMetrics,
        brownout: Brownout | None,
    ) -> Held:
        """What an engine serves it by, and the metrics to tell of it. took: as StageRunner.warm_up() has it."""
        slowdown = self._profile.slowdown.value
        manifest = self.bundle.manifest
        metrics.add_stages(runner.stages)
        batcher = Batcher(
            partial(run_stage, runner, manifest, slowdown=slowdown),
            most=self._settings.inference.batch,
            metrics=metrics,
            wait_s=self._settings.inference.batch_wait_s,
            took={k: seconds * slowdown for k, seconds in took.items()},
        )
        return Held(
            bundle=self.bundle,
            own_policy=self.policy,
            plan=Plan(last_stage=self.last_stage, epoch=self._settings.plan.epoch),
            stages=runner.stages,
            batcher=batcher,
            brownout=brownout,
        )


def identify(metrics: TierMetrics, held: Held) -> None:
    """Let the metrics say which bundle is in use."""
    metrics.identify(
        version=version("offramp"),
        bundle=held.bundle.manifest.name,
        network=held.bundle.digest,
        policy=held.own_policy.id,
    )
