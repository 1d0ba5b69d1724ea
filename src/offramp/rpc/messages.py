"""Samples and answers as Python values, and their protobuf forms.

A payload stays as it came until a tier computes on it, so that a tier that only passes samples on never decodes.
Times are seconds here and microseconds on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DegradedReason, InvalidInput
from offramp.rpc.names import NamesSaid, NamesTold, Origin
from offramp.rpc.payload import EncodedImage, Payload, TensorBytes
from offramp.rpc.v1 import tier_pb2 as pb

ENVELOPE_BYTES = (
    1024  # kept free beside a payload: its sample's names are at most 600, its other fields 150
)
_MOST_TENSORS = 256  # of a boundary: networks have one, or one for each branch
_MOST_TRACEPARENT_BYTES = 64  # version 00 has 25; a later one may have more
GRPC_PREFIX_BYTES = 5  # what gRPC puts before each message: a flag and a length
_REASONS: tuple[DegradedReason | None, ...] = (
    None,
    "unreachable",
    "deadline",
    "overloaded",
    "mismatch",
    "policy",
    "brownout",
)


_DEGRADED: dict[DegradedReason | None, pb.Degraded] = {
    reason: getattr(pb, pb.Degraded.Name(number)) for number, reason in enumerate(_REASONS)
}


class Tier(IntEnum):
    """The three tiers, numbered as on the wire."""

    DEVICE = 1
    FOG = 2
    CLOUD = 3

    def __str__(self) -> str:
        return self.name.lower()


_TIERS: dict[Tier, pb.TierName] = {tier: getattr(pb, pb.TierName.Name(tier)) for tier in Tier}
_TIERS_BY_NUMBER = {int(tier): tier for tier in Tier}


class SampleId(NamedTuple):
    """Unique over devices, their restarts and their samples."""

    origin: Origin
    sequence: int

    def __str__(self) -> str:
        """As people read it, and as `offramp results` prints it."""
        return f"{self.origin.device}/{self.origin.run:016x}/{self.sequence}"


class Sample(NamedTuple):
    """One input under way. `deadline` is a time of the receiver's own monotonic clock, in seconds."""

    id: SampleId
    boundary: int
    network: str
    policy: str
    deadline: float
    payload: Payload
    plan_epoch: int = 0
    traceparent: bytes = b""
    local: bool = False
    early: bool = False
    exit_state: bytes = b""
    group: int = 0
    view: int = 0


class Leg(NamedTuple):
    """What one tier spent on a sample: seconds, the largest batch it ran in, its share of bytes up and down."""

    tier: Tier
    queued_s: float = 0.0
    computed_s: float = 0.0
    hop_s: float = 0.0
    batch: int = 0
    bytes_up: float = 0.0
    bytes_down: float = 0.0


class Answer(NamedTuple):
    """What the caller gets: calibrated probabilities (C,) float32 of an exit, and how they came about.

    stored: the tier asked keeps the sample until it has its full answer, under its id; a client names that in `id`.
    """

    label: int
    probabilities: NDArray[np.float32]
    exit: int
    tier: Tier
    degraded: DegradedReason | None = None
    network: str = ""
    policy: str = ""
    plan_epoch: int = 0
    certified: bool = False
    trail: tuple[Leg, ...] = ()  # the deepest tier first
    stored: bool = False
    id: SampleId | None = None

    @property
    def confidence(self) -> float:
        """The probability of the label."""
        return float(self.probabilities[self.label])

    def after(self, leg: Leg) -> Answer:
        """The same answer, one tier nearer to the caller."""
        return self._replace(trail=(*self.trail, leg))


def write_sample(sample: Sample, message: pb.Sample, names: NamesSaid, time_left_s: float) -> None:
    """Fill the message with a sample, on the stream that these names belong to."""
    message.id.origin = names.number("origin", sample.id.origin)
    message.id.sequence = sample.id.sequence
    message.boundary = sample.boundary
    message.network = names.number("network", sample.network)
    message.policy = names.number("policy", sample.policy)
    message.plan_epoch = sample.plan_epoch
    message.time_left_us = _microseconds(time_left_s)
    message.traceparent = sample.traceparent
    message.local = sample.local
    message.early = sample.early
    message.exit_state = sample.exit_state
    message.group = sample.group
    message.view = sample.view
    if isinstance(sample.payload, EncodedImage):
        message.payload.image.data = sample.payload.data
        message.payload.image.media_type = sample.payload.media_type
    else:
        for tensor in sample.payload:
            message.payload.tensors.tensors.add(
                data=tensor.data, dtype=tensor.dtype, shape=tensor.shape or ()
            )


def sample_from_proto(
    message: pb.Sample, names: NamesTold, *, now: float, default_time_left_s: float
) -> Sample:
    """The sample of a message received at `now`. Raises InvalidInput naming the field."""
    if (size := len(message.traceparent)) > _MOST_TRACEPARENT_BYTES:
        raise InvalidInput(
            "traceparent", f"{size} bytes, over the limit of {_MOST_TRACEPARENT_BYTES}"
        )
    left_s = message.time_left_us / 1e6 if message.HasField("time_left_us") else default_time_left_s
    return Sample(
        id=id_from_proto(message.id, names),
        boundary=message.boundary,
        network=names.text("network", message.network),
        policy=names.text("policy", message.policy),
        plan_epoch=message.plan_epoch,
        deadline=now + left_s,
        traceparent=message.traceparent,
        local=message.local,
        early=message.early,
        exit_state=message.exit_state,
        group=message.group,
        view=message.view,
        payload=payload_from_proto(message.payload),
    )


def payload_from_proto(message: pb.Payload) -> Payload:
    """The payload of a message. Raises InvalidInput where it has none, or more tensors than any boundary."""
    form = message.WhichOneof("form")
    if form == "tensors":
        tensors = message.tensors.tensors
        if len(tensors) > _MOST_TENSORS:
            text = f"{len(tensors)} tensors, over the limit of {_MOST_TENSORS}"
            raise InvalidInput("payload.tensors", text)
        return tuple([TensorBytes(t.data, t.dtype, tuple(t.shape) or None) for t in tensors])
    if form == "image":
        return EncodedImage(message.image.data, message.image.media_type)
    raise InvalidInput("payload", "neither tensors nor an image")


def id_to_proto(sample_id: SampleId, names: NamesSaid) -> pb.SampleId:
    """The message of an id."""
    return pb.SampleId(origin=names.number("origin", sample_id.origin), sequence=sample_id.sequence)


def id_from_proto(message: pb.SampleId, names: NamesTold) -> SampleId:
    """The id of a message. Raises InvalidInput where its origin was not named."""
    return SampleId(names.origin(message.origin), message.sequence)


def write_answer(answer: Answer, message: pb.Answer, names: NamesSaid) -> None:
    """Fill the message with an answer, on the stream that these names belong to."""
    message.label = answer.label
    message.probabilities.extend(answer.probabilities.tolist())
    message.exit = answer.exit
    message.tier = _TIERS[answer.tier]
    message.degraded = _DEGRADED[answer.degraded]
    message.network = names.number("network", answer.network)
    message.policy = names.number("policy", answer.policy)
    message.plan_epoch = answer.plan_epoch
    message.certified = answer.certified
    message.stored = answer.stored
    for leg in answer.trail:
        written = message.trail.add()
        written.tier = _TIERS[leg.tier]
        written.queued_us = _microseconds(leg.queued_s)
        written.computed_us = _microseconds(leg.computed_s)
        written.hop_us = _microseconds(leg.hop_s)
        written.batch = leg.batch
        written.bytes_up = leg.bytes_up
        written.bytes_down = leg.bytes_down


def answer_from_proto(message: pb.Answer, names: NamesTold) -> Answer:
    """The answer of a message. Raises InvalidInput naming the field."""
    probabilities = np.array(message.probabilities, np.float32)
    if message.label >= len(probabilities) or not np.isfinite(probabilities).all():
        raise InvalidInput("answer", "its probabilities are not numbers, or lack its label")
    try:
        return Answer(
            label=message.label,
            probabilities=probabilities,
            exit=message.exit,
            tier=_TIERS_BY_NUMBER[message.tier],
            degraded=_REASONS[message.degraded],
            network=names.text("network", message.network),
            policy=names.text("policy", message.policy),
            plan_epoch=message.plan_epoch,
            certified=message.certified,
            stored=message.stored,
            trail=tuple([_leg_from_proto(leg) for leg in message.trail]),
        )
    except LookupError as exc:
        raise InvalidInput("answer", f"a tier or reason this version does not know: {exc}") from exc


def _leg_from_proto(message: pb.Leg) -> Leg:
    return Leg(
        tier=_TIERS_BY_NUMBER[message.tier],
        queued_s=message.queued_us / 1e6,
        computed_s=message.computed_us / 1e6,
        hop_s=message.hop_us / 1e6,
        batch=message.batch,
        bytes_up=message.bytes_up,
        bytes_down=message.bytes_down,
    )


Part = TypeVar("Part")


def in_messages(
    parts: Iterable[Part], bytes_of: Callable[[Part], bytes], limit_bytes: int
) -> Iterator[tuple[bytes, list[Part]]]:
    """The parts in order, in as few messages as keep each within the limit: its bytes, and the parts in it.

    bytes_of: of a part, a whole message that holds it alone; joined they are one message that holds all (Protocol
    Buffers, Encoding, "Last One Wins": concatenated messages merge). A part over the limit comes alone. Parts are asked
    for as late as possible.

    >>> [message for message, _ in in_messages([b"aaaa", b"bbbb", b"c"], bytes, 8)]
    [b'aaaabbbb', b'c']
    """
    pieces: list[bytes] = []
    together: list[Part] = []
    total = 0
    for part in parts:
        piece = bytes_of(part)
        if together and total + len(piece) > limit_bytes:
            yield b"".join(pieces), together
            pieces, together, total = [], [], 0
        pieces.append(piece)
        together.append(part)
        total += len(piece)
    if together:
        yield b"".join(pieces), together


def _microseconds(seconds: float) -> int:
    return round(min(max(0.0, seconds * 1e6), 0xFFFFFFFF))
