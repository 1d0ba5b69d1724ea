"""When a sample may leave: rules, combinations, temperature, thresholds, and policies of them. Pure."""

from offramp.exits.budget import BudgetedThresholds, ClosedBatch, budgeted_thresholds
from offramp.exits.combination import COMBINATIONS, Combine
from offramp.exits.policy import BASELINES, Decision, ExitPolicy, ExitSetting
from offramp.exits.rules import NEVER, RULES
from offramp.exits.temperature import fit_temperature
from offramp.exits.thresholds import FittedThresholds, fit_thresholds
from offramp.exits.weights import fit_weights

__all__ = [
    "BASELINES",
    "COMBINATIONS",
    "NEVER",
    "RULES",
    "BudgetedThresholds",
    "ClosedBatch",
    "Combine",
    "Decision",
    "ExitPolicy",
    "ExitSetting",
    "FittedThresholds",
    "budgeted_thresholds",
    "fit_temperature",
    "fit_thresholds",
    "fit_weights",
]
