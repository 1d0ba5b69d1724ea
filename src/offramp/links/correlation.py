"""A path through a table of quantiles: every value as often as the table says, neighbours as alike as it says.

Gaussian AR(1):  z[i+1] = phi z[i] + sqrt(1 - phi^2) e[i]
ranks:           u[i] = (rank of z[i] + 1/2) / R
copula:          x[i] = table(u[i])

Ranks, not the normal distribution function, make u: so the marginals are the table's for every seed and
length. With the distribution function they would be only in the long run: a rate that forgets itself in
12 s has a thousand independent values in 400,000 rows of 50 ms, which a Kolmogorov distance of 0.04 is
usual for. The price: a timeline of a few correlation times still visits the whole table.

A curved table bends correlation downwards, most so a long-tailed one: the latent's 0.95 is 0.83 of an LTE
round trip. `latent_correlation` undoes it, so that the stated correlation is that of the values a user sees.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from offramp.links.quantiles import Floats, Quantiles

# The normal distribution on a grid: 6 standard deviations leave out 2e-9, a step of 0.01 resolves the last promille.
_Z = np.linspace(-6.0, 6.0, 1201)
_U = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in _Z])
_WEIGHT = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


def value_correlation(table: Quantiles, phi: float) -> float:
    """The correlation of table(U1) and table(U2), where U1, U2 come of normals correlated by phi (0 to below 1).

    By quadrature: a grid over the first normal, Gauss-Hermite over the second given the first.
    """
    x = table.at(_U)
    mean = _WEIGHT @ x
    spread = math.sqrt(1 - phi**2)
    second = np.interp(phi * _Z[:, None] + spread * _NODES, _Z, _U)  # (Z, nodes)
    expected = table.at(second) @ (_NODE_WEIGHTS / _NODE_WEIGHTS.sum())
    return float((_WEIGHT @ ((x - mean) * (expected - mean))) / (_WEIGHT @ (x - mean) ** 2))


def latent_correlation(table: Quantiles, wanted: float) -> float:
    """The phi whose value_correlation is `wanted` (0 to below 1), to 1e-6; the table is no constant."""
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        phi = (low + high) / 2
        if value_correlation(table, phi) < wanted:
            low = phi
        else:
            high = phi
    return low


def path(
    table: Quantiles, correlation_s: float, step_s: float, rows: int, random: np.random.Generator
) -> Floats:
    """(rows,) values with the table's marginals; neighbours correlate by exp(-step_s / correlation_s)."""
    phi = latent_correlation(table, math.exp(-step_s / correlation_s))
    noise = random.standard_normal(rows)
    noise[1:] *= math.sqrt(1 - phi**2)
    latent = np.fromiter(accumulate(noise.tolist(), lambda z, e: phi * z + e), float, rows)
    ranks = np.empty(rows)
    ranks[np.argsort(latent, kind="stable")] = np.arange(rows)
    return table.at((ranks + 0.5) / rows)
