"""`offramp-device`: runs stage 0 unless told otherwise, with an uplink to the fog."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offramp.serving.program import run_tier
from offramp.serving.settings import Address, PlanSettings, TierSettings, TlsSettings


class DeviceSettings(TierSettings):
    """A device ends at stage 0 and listens for the application beside it."""

    listen: Address = "127.0.0.1:7101"
    metrics: Address = "127.0.0.1:9101"
    plan: PlanSettings = PlanSettings(last_stage=0)
    tls: TlsSettings = TlsSettings(health="127.0.0.1:7111")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the device tier; returns the exit code."""
    return run_tier("device", DeviceSettings, argv)


if __name__ == "__main__":
    sys.exit(main())
