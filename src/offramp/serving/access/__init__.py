"""Who may call a tier that has TLS on, and how it knows them."""

from offramp.serving.access.callers import Caller
from offramp.serving.access.gate import current_caller
from offramp.serving.access.port import SecurePort
from offramp.serving.access.refusals import Refusals

__all__ = ["Caller", "Refusals", "SecurePort", "current_caller"]
