"""The samples that a stream has been asked for and has no reply to yet.

add() -> unsent --take()--> under way --settle()--> the asker hears
         give_up() -> forgotten --take()--> a cancel message
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from offramp.errors import (
    DeadlineExceeded,
    DegradedReason,
    InvalidInput,
    OfframpError,
    TierUnavailable,
)
from offramp.rpc.messages import Answer, Sample, SampleId


class Reply(NamedTuple):
    """A tier's answer, and this sample's share of the messages that went up and came down for it."""

    answer: Answer
    bytes_up: float
    bytes_down: float


class CallbackFailed(OfframpError):
    """What an asker's own `early` raised, which ends its sample and no other."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"early: {type(cause).__name__}: {cause}")
        self.cause = cause


Hear = Callable[[Reply | OfframpError], None]
HearEarly = Callable[[Answer], None]


T = TypeVar("T")


def set_outcome(future: asyncio.Future[T], outcome: T | Exception) -> None:
    """Let whoever awaits it have the result or the error, unless it was cancelled just now."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _nobody(_outcome: Reply | OfframpError) -> None:
    """Who hears once the asker has heard or has gone."""


@dataclass(slots=True, eq=False)
class Asked:
    """One sample, the time until which its asker waits, and its share of the bytes that went up.

    hear: called once, with the reply or the error; never once it was given up. early: called before it, with each
    answer so far.
    """

    sample: Sample
    deadline: float
    hear: Hear
    early: HearEarly | None = None
    timer: asyncio.TimerHandle | None = None
    bytes_up: float = 0.0
    bytes_down: float = 0.0  # of answers so far
    is_over: bool = False

    def end(self, outcome: Reply | OfframpError, bytes_down: float = 0.0) -> None:
        """Let its asker hear how it ended, an error with the bytes that were moved."""
        hear = self.hear
        self.forget()
        if isinstance(outcome, OfframpError):
            outcome.bytes_up, outcome.bytes_down = self.bytes_up, bytes_down
        hear(outcome)

    def forget(self) -> None:
        """Nobody hears any more. The asker is let go, for it may hold this one, as what to give up."""
        self.is_over = True
        self.hear, self.early = _nobody, None
        if self.timer is not None:
            self.timer.cancel()


class Pending:
    """Asked samples by id. Whoever writes waits for take(); whoever reads calls settle()."""

    def __init__(self) -> None:
        self._asked: dict[SampleId, Asked] = {}
        self._unsent: dict[SampleId, Asked] = {}
        self._forgotten: list[SampleId] = []
        self._wake = asyncio.Event()
        self._gone = asyncio.Event()  # one sample less
        self._nudged = False

    def __len__(self) -> int:
        return len(self._asked)

    def add(
        self,
        sample: Sample,
        deadline: float,
        left_s: float,
        hear: Hear,
        early: HearEarly | None = None,
    ) -> Asked:
        """The sample as the last of the unsent; after left_s its asker hears that the deadline has passed.

        Raises InvalidInput where its id is under way already.
        """
        if sample.id in self._asked:
            raise InvalidInput("id.sequence", f"{sample.id.sequence} is already under way")
        asked = Asked(sample, deadline, hear, early)
        # A timer and no asyncio.timeout(), which costs three times as much.
        asked.timer = asyncio.get_running_loop().call_later(left_s, self._expire, asked)
        self._asked[sample.id] = self._unsent[sample.id] = asked
        self._wake.set()
        return asked

    def _expire(self, asked: Asked) -> None:
        if self._remove(asked):
            asked.end(DeadlineExceeded("the tier did not answer in time"))

    def give_up(self, asked: Asked) -> None:
        """The asker has gone: it hears nothing, and what was sent in vain is to be cancelled."""
        if self._remove(asked):
            asked.forget()

    def _remove(self, asked: Asked) -> bool:
        """Whether it was still there; then the tier is to hear that nobody waits for it."""
        sample_id = asked.sample.id
        if self._asked.get(sample_id) is not asked:
            return False
        del self._asked[sample_id]
        self._gone.set()
        if self._unsent.pop(sample_id, None) is None:
            self._forgotten.append(sample_id)
            self._wake.set()
        return True

    async def take(self) -> tuple[list[Asked], list[SampleId]]:
        """The unsent and the forgotten, once there are any; the unsent count as under way from now.

        Both are empty where somebody nudged.
        """
        while not (self._unsent or self._forgotten or self._nudged):
            self._wake.clear()
            await self._wake.wait()
        self._nudged = False
        unsent, self._unsent = list(self._unsent.values()), {}
        forgotten, self._forgotten = self._forgotten, []
        return unsent, forgotten

    def nudge(self) -> None:
        """Let take() return, though there be nothing."""
        self._nudged = True
        self._wake.set()

    def put_back(self, unsent: Iterable[Asked]) -> None:
        """Let those that were taken and not sent wait for another stream, before the ones asked for since."""
        back = {a.sample.id: a for a in unsent if self._asked.get(a.sample.id) is a}
        self._unsent = back | self._unsent
        self._wake.set()

    async def all_answered(self) -> None:
        """Return once nothing that was sent is under way; what was forgotten needs no cancel then."""
        while len(self._asked) > len(self._unsent):
            await self.one_less()
        self._forgotten.clear()

    async def one_less(self) -> None:
        """Return once a sample is no longer under way."""
        self._gone.clear()
        await self._gone.wait()

    def tell(self, sample_id: SampleId, answer: Answer, bytes_down: float) -> None:
        """Let the asker hear an answer so far, where it wants to; where it fails at that, CallbackFailed is its end."""
        asked = self._asked.get(sample_id)
        if asked is None:
            return
        asked.bytes_down += bytes_down
        if asked.early is None:
            return
        try:
            asked.early(answer)
        except Exception as exc:
            if self._remove(asked):
                asked.end(CallbackFailed(exc), asked.bytes_down)

    def settle(self, sample_id: SampleId, answer: Answer | OfframpError, bytes_down: float) -> None:
        """Let the asker hear its reply or error; nothing where it has gone, or the id is unknown."""
        asked = self._asked.pop(sample_id, None)
        if asked is None:
            return
        self._gone.set()
        bytes_down += asked.bytes_down
        if isinstance(answer, OfframpError):
            asked.end(answer, bytes_down)
        else:
            asked.end(Reply(answer, asked.bytes_up, bytes_down))

    def fail_all(self, reason: DegradedReason, message: str) -> None:
        """Let every asker hear a TierUnavailable and forget everything: the stream is gone."""
        every = list(self._asked.values())
        self._asked.clear()
        self._unsent.clear()
        self._forgotten.clear()
        self._gone.set()
        for asked in every:
            asked.end(TierUnavailable(reason, message))
