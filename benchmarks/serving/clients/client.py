"""What all clients are: an asynchronous context manager that asks about images of the pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]  # (N, 3, 32, 32)
# A server is asked before it listens, so that its start can be timed: try again soon.
CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 20),
    ("grpc.max_receive_message_length", 16 * 2**20),
)
TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """The label of one image, and the exit that said it."""

    label: int
    exit: int = 0


class Client(ABC):
    """Asks the server at `address` (HOST:PORT)."""

    def __init__(self, address: str, images: Images) -> None:
        self.address, self.images = address, images

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open what stays open; the server need not listen yet."""

    @abstractmethod
    async def __aexit__(self, *_error: object) -> None:
        """Close it."""

    @abstractmethod
    async def ask(self, numbers: Sequence[int]) -> list[Answer]:
        """The answers to those images of the pool, sent at once. Raises whatever the protocol raises."""
