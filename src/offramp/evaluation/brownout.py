"""The way on from a calibrated policy: greedier candidates of the same path, each measured.

    candidates, safest first:   0 ... the policy ... x ... x ... x ... everybody leaves at the first exit
                                                    the steps, evenly cheaper

A tier with too much to do goes along them (`offramp.serving.brownout`); no certificate covers them.
"""

from __future__ import annotations

import numpy as np

from offramp.bundle import Brownout, BrownoutStep
from offramp.evaluation.calibration import Observed, evenly_cheaper, measure
from offramp.evaluation.goals import Reached
from offramp.exits import NEVER

STEPS = 4


def brownout_of(reached: Reached, to_fit: Observed, to_check: Observed) -> Brownout | None:
    """At most STEPS steps, chosen on the samples that the path was fitted on and measured on the others.

    None where the policy is the greediest candidate itself.
    """
    candidates = evenly_cheaper(reached.fitted, reached.measured.candidate, STEPS, to_fit)
    if not candidates:
        return None
    steps = [
        BrownoutStep(
            # Infinity is no number in JSON; NEVER lets nobody leave either.
            thresholds=tuple(np.minimum(reached.fitted.path[found.candidate], NEVER).tolist()),
            accuracy=found.accuracy,
            exit_shares=found.exit_shares,
        )
        for found in measure(reached.fitted, candidates, to_check)
    ]
    return Brownout(policy=reached.policy.id, samples=len(to_check), steps=tuple(steps))
