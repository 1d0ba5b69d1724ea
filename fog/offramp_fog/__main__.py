"""`offramp-fog`: runs stage 1 unless told otherwise, with an uplink to the cloud."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offramp.serving.program import run_tier
from offramp.serving.settings import Address, PlanSettings, TierSettings, TlsSettings


class FogSettings(TierSettings):
    """A fog node ends at stage 1 and listens for devices."""

    listen: Address = "0.0.0.0:7102"
    metrics: Address = "0.0.0.0:9102"
    plan: PlanSettings = PlanSettings(last_stage=1)
    tls: TlsSettings = TlsSettings(health="127.0.0.1:7112")
    store: None = None  # the device's; a fog's callers are devices


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fog tier; returns the exit code."""
    return run_tier("fog", FogSettings, argv)


if __name__ == "__main__":
    sys.exit(main())
