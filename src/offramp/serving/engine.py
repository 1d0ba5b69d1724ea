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
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

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
from offramp.exits.confidence import labels_of
from offramp.rpc import Answer, Leg, Origin, Reply, Sample, Tier
from offramp.rpc.payload import payload_size_checked
from offramp.serving.batching import Batcher
from offramp.serving.request import Deliver, Request
from offramp.serving.uplink import Uplink
from offramp.serving.work import Work
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Outcome

logger = logging.getLogger(__name__)
# Of the time that a sample has left, what its first stage may take: the rest is for the batch that it comes into, which
# ends for all at once, and for the way back. With a queue as long as the deadlines allow, batches would be of one.
# Below a device there is nobody who could answer instead, so that it refuses only what is hopeless.
_SPENT_HERE = {Tier.DEVICE: 1.0, Tier.FOG: 0.8, Tier.CLOUD: 0.8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far this tier goes: it runs stages up to last_stage; -1 means that it only passes samples on."""

    last_stage: int
    epoch: int = 0


class _Hop(NamedTuple):
    """What handing one sample on has cost so far, in vain or not."""

    seconds: float = 0.0
    bytes_up: float = 0.0
    bytes_down: float = 0.0


_NO_HOP = _Hop()


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
    ) -> None:
        self.tier, self.bundle, self.own_policy, self.plan = tier, bundle, own_policy, plan
        self.held, self.metrics, self.most_in_flight = held, metrics, most_in_flight
        self._batcher, self._uplink = batcher, uplink
        self._in_flight = 0
        self._by_origin: dict[Origin, int] = {}  # those in flight
        metrics.in_flight.set_function(lambda: self._in_flight)
        self._draining = False
        self._mismatches_seen: set[str] = set()
        self._certified = bundle.manifest.certified

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

    def begin(self, sample: Sample, deliver: Deliver) -> Request:
        """Start on a sample; `deliver` hears its answer, from here or from a deeper tier, or its error, once.

        That may be before this returns. The errors are InvalidInput, BundleMismatch, DeadlineExceeded where no exit had
        answered in time, TierUnavailable where this tier takes no more or has no stage that could answer, and whatever
        a fault raises.
        """
        origin = sample.id.origin
        request = Request(origin, deliver, self._over)
        self._in_flight += 1
        self._by_origin[origin] = self._by_origin.get(origin, 0) + 1
        try:
            request.work = self._admitted(sample)
            self._climb(request, request.work)
        except Exception as exc:
            request.end(exc)
        return request

    def _over(self, request: Request, outcome: Outcome) -> None:
        self._in_flight -= 1
        self._by_origin[request.origin] -= 1
        if not self._by_origin[request.origin]:
            del self._by_origin[request.origin]
        self.metrics.count_result(outcome)
        self.metrics.request_seconds.observe(time.monotonic() - request.began)

    def _admitted(self, sample: Sample) -> Work:
        if self._draining:
            raise TierUnavailable("unreachable", "this tier is shutting down")
        self._refuse_excess(sample)
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
        return Work(sample, policy, sample.boundary, exit_state=sample.exit_state)

    def _refuse_excess(self, sample: Sample) -> None:
        """Refuse at once what this tier has no room for, or could not compute before its deadline.

        When it is full, an origin that has less than its share of it may still go in, up to twice the limit in all.
        """
        if self._in_flight > self.most_in_flight:
            share = self.most_in_flight / len(self._by_origin)
            own = self._by_origin[sample.id.origin]
            if own > share or self._in_flight > 2 * self.most_in_flight:
                text = f"{self.most_in_flight} samples are in flight here"
                raise TierUnavailable("overloaded", text)
        needed_s = self._batcher.needed_s(sample.id.origin, sample.boundary)
        left_s = sample.deadline - time.monotonic() if needed_s else 0.0
        if left_s > 0 and needed_s > _SPENT_HERE[self.tier] * left_s:
            raise TierUnavailable("overloaded", f"the queue is longer than the {left_s:.3g} s left")

    def _climb(self, request: Request, work: Work) -> None:
        """One stage more, or what comes after the last one here."""
        if work.boundary <= self.plan.last_stage and work.boundary in self.held:
            passed = partial(self._passed, request, work)
            is_alone = self._in_flight == 1
            request.turn = self._batcher.submit(
                work, work.boundary, work.sample.deadline, passed, is_alone=is_alone
            )
        elif work.sample.local:
            request.await_end_of(self._fall_back(work, "policy", None))
        else:
            self._hand_on(request, work)

    def _passed(self, request: Request, work: Work, error: Exception | None) -> None:
        try:
            if isinstance(error, DeadlineExceeded) and work.best is not None:
                request.end(self._own(work, "deadline"))
            elif error is not None:
                request.end(error)
            elif work.best is not None and work.best.leaves:
                request.end(self._own(work, None))
            else:
                self._climb(request, work)
        except Exception as exc:
            request.end(exc)

    def _hand_on(self, request: Request, work: Work) -> None:
        heard = partial(self._heard, request, work, time.monotonic())
        try:
            request.give_up = self._uplink.ask(self._for_next_tier(work), heard)
        except OfframpError as exc:  # of what it would hand on
            heard(exc)

    def _heard(
        self, request: Request, work: Work, began: float, outcome: Reply | OfframpError
    ) -> None:
        hop = _Hop(time.monotonic() - began, outcome.bytes_up, outcome.bytes_down)
        if isinstance(outcome, OfframpError):
            reason = _reason_of(outcome)
            request.await_end_of(self._fall_back(work, reason, outcome, hop))
            return
        answer = outcome.answer
        if (answer.network, answer.policy) != (self.bundle.digest, work.policy.id):
            answer = replace(answer, certified=False)
        request.end(answer.after(self._leg(work, hop)))

    def _for_next_tier(self, work: Work) -> Sample:
        return replace(
            work.sample,
            boundary=work.boundary,
            network=self.bundle.digest,
            policy=work.policy.id,
            plan_epoch=self.plan.epoch,
            exit_state=work.exit_state,
            payload=work.payload(self.bundle.manifest),
        )

    async def _fall_back(
        self,
        work: Work,
        reason: DegradedReason,
        cause: OfframpError | None,
        hop: _Hop = _NO_HOP,
    ) -> Answer:
        """The answer so far, degraded; computed now where this tier holds the stage but the plan gave it none."""
        if work.best is None and work.boundary in self.held:
            await self._batcher.advance(work, work.boundary, math.inf)
        if work.best is None and isinstance(cause, InvalidInput):
            raise cause  # the caller's own input, seen only now
        if reason == "mismatch":
            self._warn_of_mismatch(cause)
        if work.best is None and cause is not None:
            raise cause
        return self._own(work, reason, hop)

    def _warn_of_mismatch(self, cause: OfframpError | None) -> None:
        # Once a field, for the text of an error may name the sample.
        subject = cause.field if isinstance(cause, (InvalidInput, BundleMismatch)) else str(cause)
        if subject not in self._mismatches_seen:
            self._mismatches_seen.add(subject)
            logger.warning("the next tier cannot take what this one hands on: %s", cause)

    def _own(self, work: Work, reason: DegradedReason | None, hop: _Hop = _NO_HOP) -> Answer:
        best = work.best
        if best is None:
            raise TierUnavailable("unreachable", "no stage here can answer")
        if best.leaves:
            reason = None  # the last exit, or one that was sure: nothing was lost
        self.metrics.count_exit(best.exit, reason)
        return Answer(
            label=int(labels_of(best.probabilities)),
            probabilities=best.probabilities,
            exit=best.exit,
            tier=self.tier,
            degraded=reason,
            network=self.bundle.digest,
            policy=work.policy.id,
            plan_epoch=self.plan.epoch,
            certified=reason is None
            and work.is_of_one_policy
            and work.policy.id in self._certified,
            trail=(self._leg(work, hop),),
        )

    def _leg(self, work: Work, hop: _Hop) -> Leg:
        return Leg(
            tier=self.tier,
            queued_s=work.queued_s,
            computed_s=work.computed_s,
            hop_s=hop.seconds,
            batch=work.batch,
            bytes_up=hop.bytes_up,
            bytes_down=hop.bytes_down,
        )


def _reason_of(error: OfframpError) -> DegradedReason:
    """Why the exit at hand answers after a hop that ended in this error."""
    if isinstance(error, TierUnavailable):
        return error.reason
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, (BundleMismatch, InvalidInput)):
        return "mismatch"
    return "unreachable"
