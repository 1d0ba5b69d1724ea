"""The names of classes, as the tier that was asked tells them."""

from __future__ import annotations

from offramp.rpc import Answer
from offramp.rpc.v1 import tier_pb2 as pb


class Classes:
    """Of the networks that a tier holds: the one in use, and the one before while it is held.

    Answers of another network have labels of other classes, which nobody here can name.
    """

    def __init__(self, described: pb.DescribeResponse) -> None:
        self._of = {network.digest: tuple(network.classes) for network in described.networks}

    def name(self, answer: Answer) -> str:
        """Of the answer's label; its number where the answer's network is none of these."""
        classes = self._of.get(answer.network, ())
        return classes[answer.label] if answer.label < len(classes) else str(answer.label)
