"""The samples that a stream has been asked for and has no reply to yet.

add() -> unsent --take()--> under way --settle()--> the future of the asker
              drop() -> forgotten --take()--> a cancel message
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from offramp.errors import DegradedReason, InvalidInput, OfframpError, TierUnavailable
from offramp.rpc.messages import Answer, Sample, SampleId


class Reply(NamedTuple):
    """A tier's answer, and this sample's share of the messages that went up and came down for it."""

    answer: Answer
    bytes_up: float
    bytes_down: float


@dataclass(slots=True, eq=False)
class Asked:
    """One sample, the time until which its asker waits, and its share of the bytes that went up and came down."""

    sample: Sample
    deadline: float
    reply: asyncio.Future[Reply]
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    is_settled: bool = False  # by the tier, whether or not its asker still waits


class Pending:
    """Asked samples by id. Whoever writes waits for take(); whoever reads calls settle()."""

    def __init__(self) -> None:
        self._asked: dict[SampleId, Asked] = {}
        self._unsent: dict[SampleId, Asked] = {}
        self._forgotten: list[SampleId] = []
        self._wake = asyncio.Event()
        self._gone = asyncio.Event()  # one sample less

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, sample: Sample, deadline: float) -> Asked:
        """The sample as the last of the unsent. Raises InvalidInput where its id is under way already."""
        if sample.id in self._asked:
            raise InvalidInput("id.sequence", f"{sample.id.sequence} is already under way")
        asked = Asked(sample, deadline, asyncio.get_running_loop().create_future())
        self._asked[sample.id] = self._unsent[sample.id] = asked
        self._wake.set()
        return asked

    def drop(self, asked: Asked) -> None:
        """The asker has gone, with its reply or without: what was sent in vain is to be cancelled."""
        sample_id = asked.sample.id
        if self._asked.get(sample_id) is not asked:
            return  # its stream broke, and there is nobody to tell
        del self._asked[sample_id]
        self._gone.set()
        was_sent = self._unsent.pop(sample_id, None) is None
        if was_sent and not asked.is_settled:
            self._forgotten.append(sample_id)
            self._wake.set()

    async def take(self) -> tuple[list[Asked], list[SampleId]]:
        """The unsent and the forgotten, once there are any; the unsent count as under way from now."""
        while not (self._unsent or self._forgotten):
            self._wake.clear()
            await self._wake.wait()
        unsent, self._unsent = list(self._unsent.values()), {}
        forgotten, self._forgotten = self._forgotten, []
        return unsent, forgotten

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
        """Return once an asker has gone."""
        self._gone.clear()
        await self._gone.wait()

    def settle(self, sample_id: SampleId, answer: Answer | OfframpError, bytes_down: float) -> None:
        """Give the asker its reply or error; nothing where it has gone, or the id is unknown."""
        asked = self._asked.get(sample_id)
        if asked is None:
            return
        asked.is_settled = True
        if asked.reply.done():
            return
        asked.bytes_down = bytes_down
        if isinstance(answer, OfframpError):
            asked.reply.set_exception(answer)
        else:
            asked.reply.set_result(Reply(answer, asked.bytes_up, bytes_down))

    def fail_all(self, reason: DegradedReason, message: str) -> None:
        """Give every asker a TierUnavailable and forget everything: the stream is gone."""
        for asked in self._asked.values():
            if not asked.reply.done():
                asked.reply.set_exception(TierUnavailable(reason, message))
        self._asked.clear()
        self._gone.set()
        self._unsent.clear()
        self._forgotten.clear()
