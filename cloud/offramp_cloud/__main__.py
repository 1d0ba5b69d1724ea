"""`offramp-cloud`: runs whatever stages are left; nothing is above it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offramp.serving.program import run_tier
from offramp.serving.settings import Address, PlanSettings, TierSettings, TlsSettings


class CloudSettings(TierSettings):
    """The cloud ends at the last stage and has no uplink."""

    listen: Address = "0.0.0.0:7103"
    metrics: Address = "0.0.0.0:9103"
    plan: PlanSettings = PlanSettings()
    tls: TlsSettings = TlsSettings(health="127.0.0.1:7113")
    uplink: None = None
    store: None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cloud tier; returns the exit code."""
    return run_tier("cloud", CloudSettings, argv)


if __name__ == "__main__":
    sys.exit(main())
