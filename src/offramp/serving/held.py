"""A bundle as a tier holds it: opened stages behind a batcher, how far the tier goes, and what it may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.bundle import Bundle
from offramp.errors import BundleMismatch, InvalidInput
from offramp.exits import ExitPolicy
from offramp.rpc import Sample
from offramp.rpc.payload import payload_size_checked
from offramp.serving.batching import Batcher
from offramp.serving.brownout import Brownout
from offramp.serving.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far this tier goes: it runs stages up to last_stage; -1 means that it only passes samples on."""

    last_stage: int
    epoch: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """`stages` are those open here, which may be more than the plan uses; own_policy decides samples that name none.

    users: samples of it that are under way.
    """

    bundle: Bundle
    own_policy: ExitPolicy
    plan: Plan
    stages: tuple[int, ...]
    batcher: Batcher
    brownout: Brownout | None = None
    users: int = 0

    def serves(self, sample: Sample) -> bool:
        """Whether it is the network, and has the policy, that a sample names, as far as it names any."""
        if sample.network and sample.network != self.bundle.digest:
            return False
        return not sample.policy or self.bundle.manifest.policy(sample.policy) is not None

    def is_computed_here(self, boundary: int) -> bool:
        """Whether the plan gives this tier the stage behind a boundary, and it can compute it."""
        return boundary <= self.plan.last_stage and boundary in self.stages

    def is_certified(self, policy_id: str) -> bool:
        """Whether the bundle has a certificate for the policy."""
        return policy_id in self.bundle.manifest.certified

    def brownout_threshold(self, policy_id: str, stage: int) -> float | None:
        """From which confidence samples leave here now because there is too much to do; None: nobody."""
        if self.brownout is None or not self.brownout.step:
            return None
        return self.brownout.threshold(self.bundle.manifest, policy_id, stage)

    def work_of(self, sample: Sample) -> Work:
        """The sample, checked against the manifest. Raises InvalidInput or BundleMismatch naming the field."""
        manifest = self.bundle.manifest
        if sample.network and sample.network != self.bundle.digest:
            held = {manifest.name: self.bundle.digest}
            raise BundleMismatch.of("network", sample.network, held)
        policy = manifest.policy(sample.policy) if sample.policy else self.own_policy
        if policy is None:
            held = {p.name: p.id for p in manifest.policies}
            raise BundleMismatch.of("policy", sample.policy, held)
        boundaries = manifest.network.boundaries
        if not 0 <= sample.boundary < len(boundaries):
            raise InvalidInput(
                "boundary", f"{sample.boundary}, but the last is {len(boundaries) - 1}"
            )
        policy.check_state(sample.exit_state, sample.boundary, len(manifest.network.classes))
        payload_size_checked(sample.payload, boundaries[sample.boundary], sample.boundary)
        return Work(self, sample, policy, sample.boundary, exit_state=sample.exit_state)
