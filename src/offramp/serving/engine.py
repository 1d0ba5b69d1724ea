"""The one engine of all tiers: stages in order up to the plan's last, then the uplink, and an answer in any case.

boundary -> stage -> leaves? -> answer
              |  no
              +-> next stage of this tier, or the uplink -> the deeper tier's answer
                                              |  cannot
                                              +-> the answer so far, degraded, with the reason
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from offramp.bundle import Bundle
from offramp.errors import (
    BundleMismatch,
    DeadlineExceeded,
    DegradedReason,
    InvalidInput,
    OfframpError,
    TierUnavailable,
)
from offramp.exits import ExitPolicy
from offramp.rpc import Answer, Leg, Sample, Tier
from offramp.rpc.payload import payload_size_checked
from offramp.serving.batching import Batcher
from offramp.serving.uplink import Uplink
from offramp.serving.work import Work
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far this tier goes: it runs stages up to last_stage; -1 means that it only passes samples on."""

    last_stage: int
    epoch: int = 0


class Engine:
    """Answers samples. `held` are the stages open here, which may be more than the plan uses."""

    def __init__(
        self,
        *,
        tier: Tier,
        bundle: Bundle,
        own_policy: ExitPolicy,
        plan: Plan,
        held: tuple[int, ...],
        batcher: Batcher,
        uplink: Uplink,
        metrics: TierMetrics,
        most_in_flight: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier, self.bundle, self.own_policy, self.plan = tier, bundle, own_policy, plan
        self.held, self.metrics, self.most_in_flight = held, metrics, most_in_flight
        self._batcher, self._uplink, self._clock = batcher, uplink, clock
        self._in_flight = 0
        self._draining = False
        self._mismatches_seen: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Samples accepted and not yet answered."""
        return self._in_flight

    @property
    def is_draining(self) -> bool:
        """Whether new samples are refused."""
        return self._draining

    def drain(self) -> None:
        """Accept nothing more; what was accepted is still answered."""
        self._draining = True

    async def answer(self, sample: Sample) -> Answer:
        """The answer to a sample, from here or from a deeper tier.

        Raises InvalidInput, BundleMismatch, DeadlineExceeded where no exit had answered in time, and TierUnavailable
        where this tier takes no more or has no stage that could answer.
        """
        began = self._clock()
        outcome: Outcome = "cancelled"
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            answer = await self._climb(self._admitted(sample))
            outcome = "degraded" if answer.degraded else "answered"
        except OfframpError as exc:
            outcome = outcome_of(exc)
            raise
        except Exception:
            outcome = "failed"
            raise
        else:
            return answer
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)
            self.metrics.count_result(outcome)
            self.metrics.request_seconds.observe(self._clock() - began)

    def _admitted(self, sample: Sample) -> Work:
        if self._draining:
            raise TierUnavailable("unreachable", "this tier is shutting down")
        if self._in_flight > self.most_in_flight:
            raise TierUnavailable("overloaded", f"{self.most_in_flight} samples are in flight here")
        manifest = self.bundle.manifest
        if sample.network and sample.network != self.bundle.digest:
            raise BundleMismatch("network", sample.network, (self.bundle.digest,))
        policy = manifest.policy(sample.policy) if sample.policy else self.own_policy
        if policy is None:
            raise BundleMismatch("policy", sample.policy, tuple(p.id for p in manifest.policies))
        boundaries = manifest.network.boundaries
        if not 0 <= sample.boundary < len(boundaries):
            raise InvalidInput(
                "boundary", f"{sample.boundary}, but the last is {len(boundaries) - 1}"
            )
        if sample.exit_state:
            raise InvalidInput("exit_state", f"given, but {policy.rule} declares none")
        payload_size_checked(sample.payload, boundaries[sample.boundary], sample.boundary)
        return Work(sample, policy, sample.boundary)

    async def _climb(self, work: Work) -> Answer:
        try:
            while work.boundary <= self.plan.last_stage and work.boundary in self.held:
                await self._batcher.advance(work, work.boundary, work.sample.deadline)
                if work.best is not None and work.best.leaves:
                    return self._own(work, None)
        except DeadlineExceeded:
            if work.best is None:
                raise
            return self._own(work, "deadline")
        if work.sample.local:
            return await self._fall_back(work, "policy", None)
        return await self._hand_on(work)

    async def _hand_on(self, work: Work) -> Answer:
        began = self._clock()
        try:
            reply = await self._uplink.ask(self._for_next_tier(work))
        except TierUnavailable as exc:
            return await self._fall_back(work, exc.reason, exc, began)
        except DeadlineExceeded as exc:
            return await self._fall_back(work, "deadline", exc, began)
        except InvalidInput as exc:
            if work.best is None:
                raise  # the caller's own input, seen only now
            return await self._fall_back(work, "mismatch", exc, began)
        except OfframpError as exc:
            return await self._fall_back(work, "unreachable", exc, began)
        leg = replace(self._leg(work, began), bytes_up=reply.bytes_up, bytes_down=reply.bytes_down)
        return reply.answer.after(leg)

    def _for_next_tier(self, work: Work) -> Sample:
        return replace(
            work.sample,
            boundary=work.boundary,
            network=self.bundle.digest,
            policy=work.policy.id,
            plan_epoch=self.plan.epoch,
            payload=work.payload(self.bundle.manifest),
        )

    async def _fall_back(
        self,
        work: Work,
        reason: DegradedReason,
        cause: OfframpError | None,
        hop_began: float | None = None,
    ) -> Answer:
        """The answer so far, degraded; computed now where this tier holds the stage but the plan gave it none."""
        if reason == "mismatch":
            self._warn_of_mismatch(cause)
        hop = None if hop_began is None else self._leg(work, hop_began)
        if work.best is None:
            if work.boundary not in self.held:
                raise cause or TierUnavailable("unreachable", "no stage here can answer")
            await self._batcher.advance(work, work.boundary, math.inf)
        return self._own(work, reason, hop)

    def _warn_of_mismatch(self, cause: OfframpError | None) -> None:
        # Once a field, for the text of an error may name the sample.
        subject = cause.field if isinstance(cause, InvalidInput) else str(cause)
        if subject not in self._mismatches_seen:
            self._mismatches_seen.add(subject)
            logger.warning("the next tier takes another network, policy or boundary: %s", cause)

    def _own(self, work: Work, reason: DegradedReason | None, hop: Leg | None = None) -> Answer:
        best = work.best
        if best is None:
            raise TierUnavailable("unreachable", "no stage here can answer")
        if best.leaves:
            reason = None  # the last exit, or one that was sure: nothing was lost
        self.metrics.count_exit(best.exit, reason)
        leg = self._leg(work) if hop is None else replace(self._leg(work), hop_s=hop.hop_s)
        return Answer(
            label=int(best.probabilities.argmax()),
            probabilities=best.probabilities,
            exit=best.exit,
            tier=self.tier,
            degraded=reason,
            network=self.bundle.digest,
            policy=work.policy.id,
            plan_epoch=self.plan.epoch,
            trail=(leg,),
        )

    def _leg(self, work: Work, hop_began: float | None = None) -> Leg:
        return Leg(
            tier=self.tier,
            queued_s=work.queued_s,
            computed_s=work.computed_s,
            hop_s=0.0 if hop_began is None else self._clock() - hop_began,
            batch=work.batch,
        )


def outcome_of(error: OfframpError) -> Outcome:
    """The outcome under which the metrics count a sample that ended in an error."""
    if isinstance(error, InvalidInput):
        return "invalid"
    if isinstance(error, BundleMismatch):
        return "mismatch"
    if isinstance(error, DeadlineExceeded):
        return "expired"
    if isinstance(error, TierUnavailable):
        return "overloaded" if error.reason == "overloaded" else "unavailable"
    return "failed"
