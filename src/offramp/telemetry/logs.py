"""One line an event, on stderr; called by main() and by nobody else."""

from __future__ import annotations

import logging


def configure_logging(tier: str, level: str) -> None:
    """Send records of that level and above to stderr, each naming the tier."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s {tier} %(levelname)s %(name)s: %(message)s",
        force=True,
    )
