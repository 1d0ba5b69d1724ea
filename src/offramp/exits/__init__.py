"""When a sample may leave: confidence, temperature, thresholds, and policies of them. Pure."""

from offramp.exits.policy import RULES, Decision, ExitPolicy, ExitSetting
from offramp.exits.temperature import fit_temperature
from offramp.exits.thresholds import FittedThresholds, fit_thresholds

__all__ = [
    "RULES",
    "Decision",
    "ExitPolicy",
    "ExitSetting",
    "FittedThresholds",
    "fit_temperature",
    "fit_thresholds",
]
