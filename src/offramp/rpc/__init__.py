"""The wire contract in Python: samples and answers, names said once, statuses, and the stream to a tier.

`v1` is generated from protos/ by `make protos` and never edited.
"""

from offramp.rpc.messages import (
    Answer,
    Leg,
    Sample,
    SampleId,
    Tier,
)
from offramp.rpc.names import NamesSaid, NamesTold, Origin
from offramp.rpc.options import StreamOptions
from offramp.rpc.payload import EncodedImage, Payload, TensorBytes
from offramp.rpc.pending import Reply
from offramp.rpc.stream import TierStream
from offramp.rpc.tls import Tls

__all__ = [
    "Answer",
    "EncodedImage",
    "Leg",
    "NamesSaid",
    "NamesTold",
    "Origin",
    "Payload",
    "Reply",
    "Sample",
    "SampleId",
    "StreamOptions",
    "TensorBytes",
    "Tier",
    "TierStream",
    "Tls",
]
