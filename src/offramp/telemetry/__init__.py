"""What a tier tells Prometheus and its log."""

from offramp.telemetry.exposition import Exposition
from offramp.telemetry.logs import configure_logging
from offramp.telemetry.metrics import TierMetrics

__all__ = ["Exposition", "TierMetrics", "configure_logging"]
