"""Whether certificates keep their promise, and what they leave of the compute that could be saved.

python -m benchmarks.certificate [--splits 200] [--bundle FOLDER] [--data FOLDER] [--json]

    images held out of training --> temperatures, candidates, once and for all
    test images (the pool)      --> 200 random draws of n --> each certifies a policy --> its risk on the whole pool

A violation is a certified policy whose risk on the whole pool is above epsilon. Exit code 1 where the lower end of the
95 % interval of their share is above delta, or where the policies certified at 1 % on half the pool save less than 70 %
of the FLOPs that the best policy in hindsight saves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.certificate_table import markdown
from benchmarks.hindsight import least_cost
from offramp.bundle import Bundle, load_bundle
from offramp.data.unseen import held_out, to_report_on
from offramp.errors import InvalidInput
from offramp.evaluation.calibration import (
    Fitted,
    Form,
    Observed,
    early_losses,
    exits_taken,
    fit,
    never_early,
    trace,
)
from offramp.evaluation.observation import observe, whole_cost
from offramp.exits.certificate import RISKS, Risk, binomial_tail, last_certified

EXAMPLE = Path("examples/fashion_mnist")  # its test images are committed beside its bundle
EPSILONS, DELTA, SMALL = (0.005, 0.01, 0.02), 0.05, 1000
LEAST_POOL, BAR_EPSILON, LEAST_RATIO = 5000, 0.01, 0.7

__all__ = ["markdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the draws of one setting came to; shares are of the draws, savings of the FLOPs without exits."""

    risk: Risk
    epsilon: float
    n: int
    violating: float
    interval: tuple[float, float]
    violating_elsewhere: float  # risk above epsilon on the part of the pool that was not drawn
    nothing_certified: float
    mean_risk: float  # on the whole pool
    saved: float
    saved_in_hindsight: float
    grid: int  # combinations of thresholds searched in hindsight

    @property
    def ratio(self) -> float | None:
        """What certified policies save of what hindsight saves; None where hindsight saves nothing."""
        return self.saved / self.saved_in_hindsight if self.saved_in_hindsight > 0 else None

    def holds(self, pool: int) -> bool:
        """Whether the row's bars are kept."""
        barred = self.epsilon == BAR_EPSILON and self.n == pool // 2
        saves = self.ratio is None or self.ratio >= LEAST_RATIO
        return self.interval[0] <= DELTA and (saves or not barred)


def clopper_pearson(count: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share. Source: Clopper and Pearson 1934, Biometrika 26(4)."""

    def solve(target: float, errors: int) -> float:
        low, high = 0.0, 1.0  # the tail at `errors` falls as the share grows
        for _ in range(60):
            middle = (low + high) / 2
            above = binomial_tail(of, errors, middle) > target
            low, high = (middle, high) if above else (low, middle)
        return low

    return (
        solve(0.975, count - 1) if count else 0.0,
        solve(0.025, count) if count < of else 1.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A path fixed elsewhere, on a pool of N samples: the losses and mean cost of its P candidates."""

    losses: NDArray[np.bool_]  # (P, N)
    saved: NDArray[np.float64]  # (P,) of the FLOPs without exits

    @property
    def risk(self) -> NDArray[np.float64]:
        """(P,) on the whole pool."""
        return np.asarray(self.losses.mean(1))


def on_pool(fitted: Fitted, observed: Observed, risk: Risk, whole: float) -> Pool:
    """Every candidate of a path on every sample of the pool."""
    traced = trace(fitted.base, observed)
    taken, columns = exits_taken(fitted, traced), np.arange(len(observed))
    losses = early_losses(traced, observed, risk)[taken, columns]
    return Pool(losses=losses, saved=1 - observed.cost[taken, columns].mean(1) / whole)


def drawn(pool: Pool, n: int, splits: int, seed: int) -> NDArray[np.int64]:
    """(splits, P) errors of every candidate on n samples drawn without replacement, a draw a row."""
    chance = np.random.default_rng(seed)
    rows = (chance.permutation(pool.losses.shape[1])[:n] for _ in range(splits))
    return np.stack([pool.losses[:, drawn_rows].sum(1) for drawn_rows in rows])


def row(
    pool: Pool,
    errors: NDArray[np.int64],
    n: int,
    risk: Risk,
    epsilon: float,
    hindsight: tuple[float, int],
) -> Row:
    """One setting, of the errors (splits, P) that its draws saw; hindsight: FLOPs saved, combinations tried."""
    count, size = len(errors), pool.losses.shape[1]
    # A path begins with "nobody leaves early", whose risk is 0, so that there always is a candidate.
    last = np.array([last_certified(seen, n, epsilon, DELTA) for seen in errors])
    violations = int((pool.risk[last] > epsilon).sum())
    elsewhere = (pool.losses.sum(1)[last] - errors[np.arange(count), last]) / (size - n)
    return Row(
        risk=risk,
        epsilon=epsilon,
        n=n,
        violating=violations / count,
        interval=clopper_pearson(violations, count),
        violating_elsewhere=float((elsewhere > epsilon).mean()),
        nothing_certified=float((last == 0).mean()),
        mean_risk=float(pool.risk[last].mean()),
        saved=float(pool.saved[last].mean()),
        saved_in_hindsight=hindsight[0],
        grid=hindsight[1],
    )


def in_hindsight(
    fitted: Fitted, observed: Observed, risk: Risk, epsilon: float, whole: float
) -> tuple[float, int]:
    """The most that thresholds chosen on the pool itself save: of a full joint grid, or of a path fitted there."""
    traced = trace(fitted.base, observed)
    loss = early_losses(traced, observed, risk)
    cost, tried = least_cost(traced.confidence, loss, observed.cost, epsilon)
    own = on_pool(fit(fitted.base, observed, risk), observed, risk, whole)
    return max(1 - cost / whole, float(own.saved[own.risk <= epsilon].max())), tried


def rows_of(
    fit_on: Observed, observed: Observed, whole: float, *, splits: int, seed: int
) -> Iterator[Row]:
    """Every risk, size of draw and epsilon."""
    base = never_early(Form(name="certified"), fit_on, ())
    for risk in RISKS:
        fitted = fit(base, fit_on, risk)
        pool = on_pool(fitted, observed, risk, whole)
        best = {e: in_hindsight(fitted, observed, risk, e, whole) for e in EPSILONS}
        for n in (SMALL, len(observed) // 2):
            errors = drawn(pool, n, splits, seed)
            for epsilon in EPSILONS:
                yield row(pool, errors, n, risk, epsilon, best[epsilon])


def measure(bundle: Bundle, folder: Path | None, splits: int, seed: int) -> dict[str, Any]:
    """All that is found, for the record. Raises InvalidInput where the pool is too small."""
    to_fit, to_draw = held_out(bundle, folder=folder), to_report_on(bundle, folder)
    if len(to_draw) < LEAST_POOL:
        raise InvalidInput("pool", f"{len(to_draw):,} samples, fewer than {LEAST_POOL:,}")
    fit_on, pool = (
        observe(bundle, unseen.samples, unseen.labels, "flops") for unseen in (to_fit, to_draw)
    )
    whole = whole_cost(bundle.manifest, pool, "flops")
    rows = list(rows_of(fit_on, pool, whole, splits=splits, seed=seed))
    return {
        "bundle": bundle.manifest.name,
        "network": bundle.digest,
        "exits": len(pool.logits),
        "fitted_on": {"name": to_fit.name, "samples": len(to_fit)},
        "pool": {"name": to_draw.name, "samples": len(to_draw)},
        "data": to_fit.sha256 | to_draw.sha256,
        "splits": splits,
        "delta": DELTA,
        "bar": {"epsilon": BAR_EPSILON, "n": len(to_draw) // 2, "ratio": LEAST_RATIO},
        "rows": [asdict(r) | {"ratio": r.ratio, "holds": r.holds(len(to_draw))} for r in rows],
        "holds": all(r.holds(len(to_draw)) for r in rows),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, record, print; 0 where every bar is kept, 1 where one is not, 2 for wrong input."""
    parser = argparse.ArgumentParser("python -m benchmarks.certificate", description=__doc__)
    parser.add_argument("--splits", type=int, default=200, help="random draws (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default: 1)")
    parser.add_argument("--bundle", type=Path, default=EXAMPLE / "bundle")
    parser.add_argument("--data", type=Path, help="where the data set's files lie")
    parser.add_argument("--name", help="of the record (default: certificate, _ and the bundle's)")
    parser.add_argument("--json", action="store_true", help="print the record, not tables")
    args = parser.parse_args(argv)
    try:
        bundle = load_bundle(args.bundle)
        found = measure(bundle, args.data, args.splits, args.seed)
    except InvalidInput as exc:
        print(exc, file=sys.stderr)
        return 2
    is_example = args.bundle == EXAMPLE / "bundle"
    path = record.write(
        args.name or ("certificate" if is_example else f"certificate_{found['bundle']}"),
        found,
        command=record.command("benchmarks.certificate", argv),
        data=found.pop("data"),
        seeds=(args.seed,),
    )
    result = json.loads(path.read_text(encoding="utf-8"))
    print(json.dumps(result, indent=2) if args.json else markdown(result))
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
