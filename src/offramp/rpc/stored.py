"""What a tier keeps of a sample that it answered degraded: as bytes for its disk, on the wire, and as Python values.

Sample, answers --record_of(), outcome_record()--> bytes on the disk
bytes --stored_to_proto()--> pb.StoredResult --stored_from_proto()--> Stored

The bytes are messages of the wire whose names are their own, so that they can be read without the stream they came on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from offramp.errors import InvalidInput, OfframpError
from offramp.rpc.messages import (
    Answer,
    Sample,
    SampleId,
    answer_from_proto,
    id_from_proto,
    payload_from_proto,
    sample_from_proto,
    write_answer,
    write_sample,
)
from offramp.rpc.names import NamesSaid, NamesTold
from offramp.rpc.payload import Payload
from offramp.rpc.status import error_of, status_of
from offramp.rpc.v1 import tier_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A sample that was answered degraded, and what has become of it.

    cursor: its place among the results, 0 while it waits; stored_at, finished_at: seconds since 1970 by the tier's
    clock; tries: so often it was asked again in vain; degraded: what its caller got; full: the full answer, the error
    where there will be none, or None while it waits; payload: what its caller sent, where that was asked for.
    """

    id: SampleId
    cursor: int
    stored_at: float
    finished_at: float | None
    tries: int
    degraded: Answer
    full: Answer | OfframpError | None
    payload: Payload | None = None


class SampleRecord(NamedTuple):
    """A sample as bytes: a pb.Request without its payload, and the pb.Payload."""

    request: bytes
    payload: bytes


class StoredRecord(NamedTuple):
    """A kept sample as bytes; `full` is b"" while it waits, `payload` where it was not asked for."""

    number: int  # its place among all that were kept
    cursor: int
    stored_at: float
    finished_at: float
    tries: int
    request: bytes
    payload: bytes
    degraded: bytes
    full: bytes


def record_of(sample: Sample) -> SampleRecord:
    """The sample as its caller sent it, but for its deadline."""
    names = NamesSaid()
    request = pb.Request()
    message = request.samples.add()
    write_sample(sample, message, names, 0.0)
    message.ClearField("time_left_us")
    payload = message.payload.SerializeToString()
    message.ClearField("payload")
    request.names.extend(names.take_unsaid())
    return SampleRecord(request.SerializeToString(), payload)


def sample_of(record: StoredRecord, *, now: float, time_left_s: float) -> Sample:
    """The sample again, with so much time from `now`. Raises InvalidInput where the bytes make no sense."""
    request = pb.Request.FromString(record.request)
    names = NamesTold()
    names.learn(request.names)
    (message,) = request.samples
    message.payload.ParseFromString(record.payload)
    return sample_from_proto(message, names, now=now, default_time_left_s=time_left_s)


def outcome_record(outcome: Answer | Exception) -> bytes:
    """A pb.Response of that answer alone, or of the error's status; whose it is, the request beside it says."""
    names = NamesSaid()
    response = pb.Response()
    result = response.results.add(final=True)
    if isinstance(outcome, Exception):
        result.status.CopyFrom(status_of(outcome))
    else:
        write_answer(outcome, result.answer, names)
    response.names.extend(names.take_unsaid())
    return bytes(response.SerializeToString())


def stored_to_proto(record: StoredRecord, message_bytes: int) -> pb.StoredResult:
    """The message of a record; without the payload where it would be over message_bytes with it."""
    message = pb.StoredResult(
        cursor=record.cursor,
        stored_unix_us=round(record.stored_at * 1e6),
        finished_unix_us=round(record.finished_at * 1e6),
        tries=record.tries,
        request=pb.Request.FromString(record.request),
        degraded=pb.Response.FromString(record.degraded),
    )
    if record.full:
        message.full.ParseFromString(record.full)
    if record.payload:
        (sample,) = message.request.samples
        sample.payload.ParseFromString(record.payload)
        if message.ByteSize() > message_bytes:
            sample.ClearField("payload")
    return message


def stored_from_proto(message: pb.StoredResult) -> Stored:
    """The values of a message. Raises InvalidInput for one that makes no sense."""
    if len(message.request.samples) != 1:
        raise InvalidInput("request.samples", f"{len(message.request.samples)} of them, not one")
    (sample,) = message.request.samples
    names = NamesTold()
    names.learn(message.request.names)
    degraded = _outcome(message.degraded)
    if not isinstance(degraded, Answer):
        raise InvalidInput("degraded", "is no answer")
    return Stored(
        id=id_from_proto(sample.id, names),
        cursor=message.cursor,
        stored_at=message.stored_unix_us / 1e6,
        finished_at=message.finished_unix_us / 1e6 if message.finished_unix_us else None,
        tries=message.tries,
        degraded=degraded,
        full=_outcome(message.full) if message.HasField("full") else None,
        payload=payload_from_proto(sample.payload) if sample.HasField("payload") else None,
    )


def _outcome(response: pb.Response) -> Answer | OfframpError:
    if len(response.results) != 1:
        raise InvalidInput("results", f"{len(response.results)} of them, not one")
    (result,) = response.results
    if result.WhichOneof("outcome") != "answer":
        return error_of(result.status)
    names = NamesTold()
    names.learn(response.names)
    return answer_from_proto(result.answer, names)
