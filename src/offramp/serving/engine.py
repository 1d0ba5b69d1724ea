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
from functools import partial
from typing import NamedTuple

from offramp.errors import (
    BundleMismatch,
    DeadlineExceeded,
    DegradedReason,
    InvalidInput,
    OfframpError,
    TierUnavailable,
)
from offramp.rpc import Answer, Leg, Reply, Sample, Tier
from offramp.serving.admission import Admission
from offramp.serving.brownout import Brownout
from offramp.serving.held import Held
from offramp.serving.request import Deliver, Request, Tell
from offramp.serving.settings import Answers
from offramp.serving.store import Keeper
from offramp.serving.uplink import Uplink
from offramp.serving.work import ExitAnswer, Work
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import Outcome

logger = logging.getLogger(__name__)


class _Hop(NamedTuple):
    """What handing one sample on has cost so far, in vain or not."""

    seconds: float = 0.0
    bytes_up: float = 0.0
    bytes_down: float = 0.0


_NO_HOP = _Hop()


class Engine:
    """Answers samples by the bundle that it holds, or, where they name it, by the one that it held before."""

    def __init__(
        self,
        *,
        tier: Tier,
        held: Held,
        uplink: Uplink,
        metrics: TierMetrics,
        most_in_flight: int,
        keeper: Keeper,
        answers: Answers = "escalate",
        brownout: Brownout | None = None,
    ) -> None:
        self.tier, self.held, self.metrics, self.answers = tier, held, metrics, answers
        self._uplink, self._keeper, self._brownout = uplink, keeper, brownout
        self._admission = Admission(tier, most_in_flight, self._feel if brownout else None)
        self.former: Held | None = None
        self.former_asked = 0.0  # when a sample of it came last
        self.unsent = (
            0  # results on their way out: who comes before they are there did not wait for them
        )
        metrics.in_flight.set_function(lambda: self._admission.in_flight)
        self._mismatches_seen: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Samples accepted and not yet answered."""
        return self._admission.in_flight

    @property
    def most_in_flight(self) -> int:
        """How many there may be."""
        return self._admission.most

    @property
    def is_draining(self) -> bool:
        """Whether new samples are refused."""
        return self._admission.is_draining

    def drain(self) -> None:
        """Accept nothing more; what was accepted is still answered."""
        self._admission.is_draining = True

    def _feel(self, pressure: float, now: float) -> None:
        if self._brownout is not None:
            self._brownout.see(max(pressure, self._uplink.pressure), now)

    def wants_early(self, sample: Sample) -> bool:
        """Whether its caller is to have the answer so far. Raises InvalidInput where it wants no later one."""
        if sample.local:
            if sample.early:
                raise InvalidInput("early", "with `local` there is no later answer")
            return False
        return sample.early or self.answers == "answer-then-escalate"

    def begin(
        self,
        sample: Sample,
        deliver: Deliver,
        tell: Tell | None = None,
        *,
        came_alone: bool = False,
    ) -> Request:
        """Start on a sample; `deliver` hears its answer, from here or from a deeper tier, or its error, once.

        tell: hears the answer so far before the sample is handed on. All that may be before this returns. came_alone:
        no other is about to follow. The errors are InvalidInput, BundleMismatch, DeadlineExceeded where no exit had
        answered in time, TierUnavailable where this tier takes no more or has no stage that could answer, and whatever
        a fault raises.
        """
        origin = sample.id.origin
        request = Request(origin, deliver, self._over, tell, came_alone=came_alone)
        self._admission.enter(origin)
        try:
            held = self._held_for(sample)
            self._admission.refuse_excess(sample, held.batcher)
            request.work = held.work_of(sample)
            held.users += 1
            self._climb(request, request.work)
        except Exception as exc:
            request.end(exc)
        return request

    def _held_for(self, sample: Sample) -> Held:
        if self.former is not None and not self.held.serves(sample) and self.former.serves(sample):
            self.former_asked = time.monotonic()
            return self.former
        return self.held

    def swap(self, held: Held) -> Held | None:
        """From now on samples that name no network are of this one; returns the one that is let go, if any.

        The one in use until now is held on, for samples that name it. What is under way goes on where it is.
        """
        gone, self.former, self.held = self.former, self.held, held
        self.former_asked = time.monotonic()
        return gone

    def _over(self, request: Request, outcome: Outcome) -> None:
        self._admission.leave(request.origin)
        if request.work is not None:
            request.work.held.users -= 1
        self.metrics.count_result(outcome)
        self.metrics.request_seconds.observe(time.monotonic() - request.began)

    def _climb(self, request: Request, work: Work) -> None:
        """One stage more, or what comes after the last one here."""
        if work.held.is_computed_here(work.boundary):
            passed = partial(self._passed, request, work)
            is_alone = request.came_alone and self.in_flight == 1 and not self.unsent
            turn = work.held.batcher.submit(
                work, work.boundary, work.sample.deadline, passed, is_alone=is_alone
            )
            if not turn.is_over:
                request.turn = turn
        elif work.sample.local or self.answers == "local-only":
            request.await_end_of(self._fall_back(work, "policy", None))
        else:
            self._hand_on(request, work)

    def _passed(self, request: Request, work: Work, error: Exception | None) -> None:
        try:
            if isinstance(error, DeadlineExceeded) and work.best is not None:
                self._give(request, work, self._own(work, "deadline"))
            elif error is not None:
                request.end(error)
            elif work.best is not None and work.best.leaves:
                request.end(self._own(work, None))
            elif work.best is not None and work.best.browns_out:
                self._give(request, work, self._own(work, "brownout"))
            else:
                self._climb(request, work)
        except Exception as exc:
            request.end(exc)

    def _hand_on(self, request: Request, work: Work) -> None:
        if request.tell is not None and work.best is not None:
            self.metrics.early_answers.add()
            request.tell(self._answer(work, work.best, None, _NO_HOP))
        heard = partial(self._heard, request, work, time.monotonic())
        try:
            give_up = self._uplink.ask(self._for_next_tier(work), heard)
        except OfframpError as exc:  # of what it would hand on
            heard(exc)
            return
        if not request.is_over:
            request.give_up = give_up

    def _heard(
        self, request: Request, work: Work, began: float, outcome: Reply | OfframpError
    ) -> None:
        hop = _Hop(time.monotonic() - began, outcome.bytes_up, outcome.bytes_down)
        if isinstance(outcome, OfframpError):
            reason = _reason_of(outcome)
            request.await_end_of(self._fall_back(work, reason, outcome, hop))
            return
        answer, asked = outcome.answer, (work.held.bundle.digest, work.policy.id)
        is_of_asked = (answer.network, answer.policy) == asked
        is_certified = answer.certified and is_of_asked and work.is_of_one_policy
        if answer.stored or is_certified != answer.certified:
            # What the next tier keeps is kept for this one: a caller of this one cannot ask for it.
            answer = answer._replace(certified=is_certified, stored=False)
        self._give(request, work, answer.after(self._leg(work, hop)))

    def _give(self, request: Request, work: Work, answer: Answer) -> None:
        if self._keeper.wants(work.sample, answer):
            request.await_end_of(self._keeper.kept(work.sample, answer))
        else:
            request.end(answer)

    def _for_next_tier(self, work: Work) -> Sample:
        return work.sample._replace(
            early=False,
            boundary=work.boundary,
            network=work.held.bundle.digest,
            policy=work.policy.id,
            plan_epoch=work.held.plan.epoch,
            exit_state=work.exit_state,
            payload=work.payload(work.held.bundle.manifest),
        )

    async def _fall_back(
        self,
        work: Work,
        reason: DegradedReason,
        cause: OfframpError | None,
        hop: _Hop = _NO_HOP,
    ) -> Answer:
        """The answer so far, degraded; computed now where this tier holds the stage but the plan gave it none."""
        if work.best is None and work.boundary in work.held.stages:
            await work.held.batcher.advance(work, work.boundary, math.inf)
        is_callers_fault = work.best is None and isinstance(
            cause, InvalidInput
        )  # and seen only now
        if reason == "mismatch" and not is_callers_fault:
            self._warn_of_mismatch(cause)
        if work.best is None and cause is not None:
            try:
                raise cause
            finally:
                del cause  # else it would be a circle: it has this frame in its traceback
        return await self._keeper.kept(work.sample, self._own(work, reason, hop))

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
        return self._answer(work, best, reason, hop)

    def _answer(
        self, work: Work, best: ExitAnswer, reason: DegradedReason | None, hop: _Hop
    ) -> Answer:
        return Answer(
            label=best.label,
            probabilities=best.probabilities,
            exit=best.exit,
            tier=self.tier,
            degraded=reason,
            network=work.held.bundle.digest,
            policy=work.policy.id,
            plan_epoch=work.held.plan.epoch,
            certified=reason is None
            and best.leaves
            and work.is_of_one_policy
            and work.held.is_certified(work.policy.id),
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
