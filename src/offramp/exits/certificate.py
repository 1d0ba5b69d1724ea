"""The certificate of a policy: with confidence 1 - delta, its risk is at most epsilon.

    candidates, safest first          fixed on one set of samples
            |
    errors of each on n others  ->  p-value of "the risk is above epsilon"  ->  the last before one fails

A sample is an error where leaving early costs it the right answer. Errors are Bernoulli, so that the p-value is the
exact binomial tail; candidates are tested in their order and the first failure ends the walk, so that each is tested
at the full delta. It holds for samples exchangeable with those n, and counts errors as a share of all of them: where
an outage degrades the answers that would have gone on, those left may err up to epsilon / (share that leaves early).
Source: Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052, sections 2 and 3.1 (fixed sequence testing); as
a bound for early exits, Jazbec et al. 2024, arXiv 2405.20915. Letters: E exits, N samples, P candidates.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Risk = Literal["accuracy-drop", "disagreement"]
RISKS: Final[tuple[Risk, ...]] = get_args(Risk)
# What showed that none of the samples was trained on: the bundle's list, or the split of its recipe.
Compared = Literal["trained_on.bin", "split of the provenance", "not checked"]
_P_VALUE_TOLERANCE = 1e-6  # relative; what another machine's logarithms may differ by, and more


_MOST_SAMPLES = 10_000_000  # bounds what checking a certificate costs


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Of one policy (by id) on one network (by digest): P(risk <= epsilon) >= 1 - delta.

    risk: "accuracy-drop", the share of samples that the last exit answers rightly and the policy wrongly, or
    "disagreement", the share that the two answer differently. It was seen on `samples` samples, of which `errors` were
    errors. data: SHA-256 by file of what they were taken from; fitted_on and certified_on: SHA-256 of the row numbers
    in it (`rows_sha256`), which do not overlap; compared_with_training: what they were held against. Raises ValueError
    where the numbers do not make a certificate.
    """

    policy: str
    network: str
    risk: Risk
    epsilon: float
    delta: float
    samples: int
    errors: int
    p_value: float
    data: dict[str, str]
    fitted_on: str
    certified_on: str
    compared_with_training: Compared = "not checked"

    def __post_init__(self) -> None:
        if self.risk not in RISKS:
            raise ValueError(f"risk: {self.risk!r} is none of {', '.join(RISKS)}")
        for name in ("epsilon", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is no share between 0 and 1")
        if not (0 <= self.errors <= self.samples and 1 <= self.samples <= _MOST_SAMPLES):
            raise ValueError(f"errors: {self.errors} of {self.samples} samples")
        p_value = binomial_tail(self.samples, self.errors, self.epsilon)
        if not math.isclose(p_value, self.p_value, rel_tol=_P_VALUE_TOLERANCE, abs_tol=1e-300):
            raise ValueError(f"p_value: {self.p_value}, but these errors give {p_value}")
        if not p_value <= self.delta:
            raise ValueError(f"p_value: {p_value:.4g} is above delta, {self.delta}")

    def __str__(self) -> str:
        unsure = self.compared_with_training == "not checked"
        return (
            f"{self.risk} at most {percent(self.epsilon)} with confidence {percent(1 - self.delta)} "
            f"({self.errors:,} errors of {self.samples:,}, p = {self.p_value:.4f})"
            f"{'; overlap with training: not checked' if unsure else ''}"
        )


def percent(share: float) -> str:
    """A share as people write it: 0.005 is "0.5 %"."""
    return f"{round(100 * share, 6):g} %"


def rows_sha256(rows: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of row numbers (N,), sorted, as little-endian int64: which samples, not in which order."""
    return hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()


def binomial_tail(samples: int, errors: int, epsilon: float) -> float:
    """P(Bin(samples, epsilon) <= errors): the p-value of "the risk is above epsilon".

    0 where errors is below 0. Raises ValueError for an epsilon outside ]0, 1[ or more errors than samples.

    >>> round(binomial_tail(1000, 4, 0.01), 4)
    0.0287
    """
    if not 0 < epsilon < 1 or errors > samples:
        raise ValueError(f"{errors} errors of {samples} at {epsilon} have no probability")
    if errors < 0:
        return 0.0
    k = np.arange(1, errors + 1)
    # log of C(n, k) epsilon^k (1 - epsilon)^(n - k), each from the one before: no term underflows on the way.
    steps = np.log((samples - k + 1) / k) + math.log(epsilon) - math.log1p(-epsilon)
    logs = samples * math.log1p(-epsilon) + np.concatenate(([0.0], np.cumsum(steps)))
    return min(1.0, math.fsum(np.exp(logs)))


def most_errors(samples: int, epsilon: float, delta: float) -> int:
    """The most errors of so many samples that still certify epsilon at delta; -1 where not even none does."""
    low, high = -1, samples  # the tail at low is at most delta, that at high is 1
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(samples, middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
    return low


def fewest_samples(epsilon: float, delta: float) -> int:
    """The fewest samples that certify epsilon at delta, none of them an error: ln(delta) / ln(1 - epsilon), up.

    >>> fewest_samples(0.01, 0.05)
    299
    """
    count = max(1, math.floor(math.log(delta) / math.log1p(-epsilon)))
    while binomial_tail(count, 0, epsilon) > delta:
        count += 1
    return count


def losses(
    labels: NDArray[np.int64],
    last: NDArray[np.int64],
    truth: NDArray[np.int64] | None,
    risk: Risk,
) -> NDArray[np.bool_]:
    """Whether leaving at each exit is an error: labels (E, N) given there -> (E, N).

    last: (N,) the last exit's own labels, which early answers are held against; truth: (N,) the right ones, needed by
    "accuracy-drop" alone. Raises ValueError where it is missing.
    """
    differs = labels != last
    if risk == "disagreement":
        return np.asarray(differs)
    if truth is None:
        raise ValueError("truth: accuracy-drop needs the right labels")
    return np.asarray(differs & (last == truth))


def last_certified(errors: NDArray[np.int64], samples: int, epsilon: float, delta: float) -> int:
    """The last candidate of those that pass before the first that fails; -1 where the first one fails.

    errors: (P,) of each candidate on the same samples, in the order fixed beforehand.
    """
    failed = np.flatnonzero(errors > most_errors(samples, epsilon, delta))
    return int(failed[0]) - 1 if len(failed) else len(errors) - 1
