"""A distribution as a table of quantiles, as measurements publish it.

Between two given probabilities the value is linear in the probability; below the first and above the
last there is nothing, so the table's ends are the least and the greatest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """(K,) probabilities from 0 to 1, strictly rising, and their (K,) values, which do not fall.

    Quantiles.of({0: 10, 50: 20, 100: 40}).at(0.75) is 30. Equal neighbouring values are an atom.
    """

    probabilities: Floats
    values: Floats

    @classmethod
    def of(cls, percentiles: Mapping[float, float], field: str = "quantiles") -> Self:
        """From percent to value, in any order. Raises InvalidInput naming `field` and the first wrong figure."""
        if not percentiles:
            raise InvalidInput(field, "has no figures")
        percents, values = zip(*sorted(percentiles.items()), strict=True)
        if not np.isfinite(percents + values).all():
            raise InvalidInput(field, "has a figure that is not finite")
        if percents[0] != 0 or percents[-1] != 100:
            raise InvalidInput(field, "must name 0 and 100, the least and the greatest value")
        for (percent, value), (next_percent, next_value) in pairwise(
            zip(percents, values, strict=True)
        ):
            if next_value < value:
                message = (
                    f"quantiles are out of order: {next_value:g} at {next_percent:g} % is below "
                    f"{value:g} at {percent:g} %"
                )
                raise InvalidInput(f"{field}.{next_percent:g}", message)
        return cls(np.array(percents, float) / 100, np.array(values, float))

    @property
    def percentiles(self) -> dict[float, float]:
        """Percent to value, as `of` takes it."""
        percents = (round(100 * float(p), 9) for p in self.probabilities)
        return dict(zip(percents, self.values.tolist(), strict=True))

    @property
    def is_constant(self) -> bool:
        """Whether there is one value only."""
        return bool(self.values[0] == self.values[-1])

    def at(self, u: Floats | float) -> Floats:
        """The values at the probabilities u, of u's shape."""
        return np.asarray(np.interp(u, self.probabilities, self.values), dtype=np.float64)

    def cdf(self, x: Floats, *, below: bool = False) -> Floats:
        """The share of values that are at most x; with `below`, that are less than x."""
        k = np.searchsorted(self.values, x, side="left" if below else "right")
        left, right = np.clip(k - 1, 0, None), np.clip(k, None, len(self.values) - 1)
        width = self.values[right] - self.values[left]
        part = np.divide(x - self.values[left], width, out=np.zeros_like(x), where=width > 0)
        inside = self.probabilities[left] + part * (
            self.probabilities[right] - self.probabilities[left]
        )
        return np.where(k == 0, 0.0, np.where(k == len(self.values), 1.0, inside))

    def distance(self, samples: Floats) -> float:
        """The Kolmogorov distance of (N,) samples to this table: the largest gap of the two distributions."""
        x, counts = np.unique(samples, return_counts=True)
        at_most = np.cumsum(counts) / len(samples)
        less = at_most - counts / len(samples)
        gaps = np.abs(at_most - self.cdf(x)), np.abs(less - self.cdf(x, below=True))
        return float(max(gap.max() for gap in gaps))
