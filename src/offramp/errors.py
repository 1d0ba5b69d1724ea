"""What can go wrong, in the words of the domain.

OfframpError
├── InvalidInput          a value from outside is wrong; `field` names it
│   ├── InvalidSettings   a settings file, environment variable or flag
│   └── InvalidBundle     a bundle's file or manifest
├── BundleMismatch        a network or policy that this tier does not hold
├── TierUnavailable       no tier above can take the sample; `reason` says why
├── TierFailed            a tier failed at the sample, through no fault of the caller's
└── DeadlineExceeded      the time left ran out before any answer

No transport code appears here; `offramp.rpc.status` holds the one table that translates to gRPC and
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

DegradedReason = Literal["unreachable", "deadline", "overloaded", "mismatch", "policy", "brownout"]


class OfframpError(Exception):
    """The root: everything that offramp raises on purpose.

    bytes_up, bytes_down: where a hop ended in this error, what it had moved by then.
    """

    bytes_up: float = 0.0
    bytes_down: float = 0.0


class InvalidInput(OfframpError):
    """A value from outside is wrong; `field` is its path as the sender would write it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class InvalidSettings(InvalidInput):
    """A setting is wrong; `field` names the key and the place it came from."""


class InvalidBundle(InvalidInput):
    """A bundle cannot be trusted or read; `field` names the file or the manifest's key."""


class BundleMismatch(OfframpError):
    """A tier does not hold the network or policy that a sample names; `message` lists those that it holds."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message

    @classmethod
    def of(cls, field: str, wanted: str, held: Mapping[str, str]) -> BundleMismatch:
        """What is wanted is none of those held (name to id)."""
        these = ", ".join(f"{name} ({identifier})" for name, identifier in held.items())
        return cls(field, f"{wanted} is not held here; held: {these}")


class TierUnavailable(OfframpError):
    """The tier above could not take or answer a sample; `reason` is why it is degraded."""

    def __init__(self, reason: DegradedReason, message: str) -> None:
        super().__init__(message)
        self.reason: DegradedReason = reason


class TierFailed(OfframpError):
    """A tier failed at a sample and says no more than this; `field` may be empty."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class DeadlineExceeded(OfframpError):
    """A sample's time ran out before any exit could answer it."""
