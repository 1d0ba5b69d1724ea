"""The exit rules by name: one file each, all of the shape of rule.py."""

from collections.abc import Mapping
from typing import Final

from offramp.exits.rules.anytime import Anytime
from offramp.exits.rules.entropy import Entropy
from offramp.exits.rules.gate import Gate
from offramp.exits.rules.margin import Margin
from offramp.exits.rules.max_probability import MaxProbability
from offramp.exits.rules.patience import Patience
from offramp.exits.rules.rule import Evidence, Rule

RULES: Final[Mapping[str, Rule]] = {
    "max-probability": MaxProbability(),
    "entropy": Entropy(),
    "margin": Margin(),
    "patience": Patience(),
    "gate": Gate(),
    "anytime": Anytime(),
}
NEVER: Final = 1e9  # above every confidence of any rule and, unlike infinity, a number in JSON

__all__ = ["NEVER", "RULES", "Evidence", "Rule"]
