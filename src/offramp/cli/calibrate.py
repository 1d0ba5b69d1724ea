"""`offramp calibrate BUNDLE`: a policy with a certificate, or the best one within a budget.

samples not trained on --split, seeded--> fit: temperatures, candidates
                                      --> check: the certificate, or whether the budget is kept
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from offramp.bundle import Brownout, Bundle, Manifest, load_bundle
from offramp.bundle.drafting import check_new
from offramp.bundle.rewriting import rewrite, with_policy
from offramp.cli.samples import add_samples, samples_of
from offramp.data.unseen import FIT_SHARE, SPLIT_SEED, Parts, Unseen
from offramp.errors import InvalidInput
from offramp.evaluation.brownout import brownout_of
from offramp.evaluation.calibration import Form, never_early
from offramp.evaluation.degraded import Degraded, degraded_answers
from offramp.evaluation.goals import Budget, Reached, RiskBound
from offramp.evaluation.observation import UNITS, observe, whole_cost
from offramp.exits import BASELINES, COMBINATIONS, RULES, ExitPolicy
from offramp.exits.certificate import RISKS, Certificate, binomial_tail, rows_sha256

_CONFIDENCE = 0.95


class _Beyond(NamedTuple):
    """What no certificate covers: greedier steps, and what degraded answers are worth."""

    brownout: Brownout | None
    degraded: list[Degraded]


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "calibrate",
        help="give a bundle a policy with a certificate, or the best one within a budget",
        description="Run the bundle's stages on samples that training did not see. Fit temperatures "
        "and candidate thresholds on one part; on the other certify the cheapest policy whose risk "
        "is bounded (--max-drop), or see whether the most accurate one within a budget keeps to it "
        "(--max-cost).",
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--max-drop", type=float, metavar="SHARE", help="the bound on the risk, such as 0.01"
    )
    goal.add_argument(
        "--max-cost",
        metavar="X",
        help="the mean cost of a sample: FLOPs, or bytes up over all links; or such as 50%% of the "
        "network without exits (of the bytes where nobody leaves early)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="SHARE",
        help=f"of the bound on the risk (default: {_CONFIDENCE})",
    )
    parser.add_argument(
        "--risk",
        choices=RISKS,
        help="the share that the last exit has right and an earlier one wrong, or that they label "
        f"differently, for which no labels are needed (default: {RISKS[0]})",
    )
    parser.add_argument("--cost", choices=UNITS, default="flops", help="what to save")
    rules = [name for name, rule in RULES.items() if not rule.goes_by_time]
    parser.add_argument("--rule", choices=rules, default="max-probability")
    parser.add_argument("--combine", choices=list(COMBINATIONS), default="none")
    parser.add_argument(
        "--learned-weights", action="store_true", help="of the combined exits (default: all alike)"
    )
    parser.add_argument("--name", help="the policy's (default: certified, or budget)")
    parser.add_argument("--out", type=Path, metavar="NEW", help="a new folder (default: in place)")
    parser.add_argument("--json", action="store_true", help="the result for machines")
    samples = add_samples(parser)
    samples.add_argument(
        "--fit-share", type=float, default=FIT_SHARE, metavar="SHARE", help="default: %(default)s"
    )
    samples.add_argument(
        "--seed", type=int, default=SPLIT_SEED, help="of the split (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, put the policy into the bundle, print.

    1 where nothing beyond "nobody leaves early" can be certified, and then no bundle is changed; 1 where the budget is
    not met, and then the policy is in the bundle all the same, its record saying so.
    """
    _check_targets(args)
    goal = _goal(args)
    bundle = load_bundle(args.bundle)
    if len(bundle.manifest.network.stages) == 1:
        raise InvalidInput(str(args.bundle), "has no early exits, and so no thresholds to find")
    unseen = samples_of(args, bundle)
    _check_form(args, bundle, unseen)
    parts = unseen.split(args.fit_share, args.seed)
    goal.check(len(parts.check), len(unseen), labelled=unseen.labels is not None)
    reached, beyond, whole = _reached(args, goal, bundle, unseen, parts)
    certificate = _certificate(goal, reached, bundle, unseen, parts)
    record = _record(args, reached, beyond, unseen, parts, whole)
    if reached.is_met or isinstance(goal, Budget):
        change = partial(_added, reached.policy, certificate, beyond.brownout, record)
        bundle = rewrite(bundle, change, args.out)
    if args.json:
        made = {
            "certificate": None if certificate is None else asdict(certificate),
            "brownout": beyond.brownout and beyond.brownout.model_dump(mode="json"),
        }
        where = {"bundle": str(bundle.folder), "network": bundle.digest}
        print(json.dumps(where | record | made, indent=2))
    else:
        print("\n".join(_lines(bundle, reached, beyond, unseen, args.cost, whole)))
    return 0 if reached.is_met else 1


def _added(
    policy: ExitPolicy,
    certificate: Certificate | None,
    brownout: Brownout | None,
    record: dict[str, Any],
    to: Manifest,
) -> Manifest:
    provenance = dict(to.provenance)
    provenance["calibrations"] = {**provenance.get("calibrations", {}), policy.name: record}
    return with_policy(to, policy, certificate, provenance, brownout)


def _check_targets(args: argparse.Namespace) -> None:
    if args.name in BASELINES:
        raise InvalidInput("--name", f"{args.name} is a baseline's, and would no longer be one")
    if args.out is not None:
        check_new(args.out)


def _goal(args: argparse.Namespace) -> RiskBound | Budget:
    if not 0 < args.fit_share < 1:
        raise InvalidInput("--fit-share", f"{args.fit_share} is no share between 0 and 1")
    if args.max_drop is not None:
        confidence = _CONFIDENCE if args.confidence is None else args.confidence
        return RiskBound(risk=args.risk or RISKS[0], epsilon=args.max_drop, confidence=confidence)
    for flag, value in (("--confidence", args.confidence), ("--risk", args.risk)):
        if value is not None:
            raise InvalidInput(flag, "given beside --max-cost, which bounds no risk")
    return Budget.parsed(args.max_cost)


def _check_form(args: argparse.Namespace, bundle: Bundle, unseen: Unseen) -> None:
    gated = [stage.gate is not None for stage in bundle.manifest.network.stages[:-1]]
    if RULES[args.rule].needs_gate and not all(gated):
        text = f"{args.rule} needs a gate at every early exit, and {gated.count(False)} have none"
        raise InvalidInput("--rule", text)
    if args.learned_weights and (args.combine == "none" or unseen.labels is None):
        lacks = "--combine" if args.combine == "none" else "labels"
        raise InvalidInput("--learned-weights", f"weights are of combined exits, and need {lacks}")


def _reached(
    args: argparse.Namespace,
    goal: RiskBound | Budget,
    bundle: Bundle,
    unseen: Unseen,
    parts: Parts,
) -> tuple[Reached, _Beyond, float]:
    """What the goal came to, what lies beyond it, and the whole that a cost is a share of."""
    classes = len(bundle.manifest.network.classes)
    earlier = [setting.temperature for setting in bundle.manifest.policies[0].exits]
    form = Form(
        name=args.name or goal.policy_name,
        rule=args.rule,
        combine=args.combine,
        learned_weights=args.learned_weights,
    )
    observed = observe(
        bundle,
        unseen.samples,
        unseen.labels,
        args.cost,
        state_bytes=form.never_early(earlier).state_bytes(classes),
    )
    to_fit, to_check = observed.take(parts.fit), observed.take(parts.check)
    base = never_early(form, to_fit, earlier)
    whole = whole_cost(bundle.manifest, observed, args.cost)
    reached = goal.reach(base, to_fit, to_check, whole)
    beyond = _Beyond(brownout_of(reached, to_fit, to_check), degraded_answers(reached, to_check))
    return reached, beyond, whole


def _certificate(
    goal: RiskBound | Budget, reached: Reached, bundle: Bundle, unseen: Unseen, parts: Parts
) -> Certificate | None:
    if isinstance(goal, Budget) or not reached.is_met:
        return None
    samples = reached.measured.samples
    return Certificate(
        policy=reached.policy.id,
        network=bundle.digest,
        risk=goal.risk,
        epsilon=goal.epsilon,
        delta=goal.delta,
        samples=samples,
        errors=reached.errors,
        p_value=binomial_tail(samples, reached.errors, goal.epsilon),
        data=unseen.sha256,
        fitted_on=rows_sha256(unseen.rows[parts.fit]),
        certified_on=rows_sha256(unseen.rows[parts.check]),
        compared_with_training=unseen.compared,
    )


def _record(
    args: argparse.Namespace,
    reached: Reached,
    beyond: _Beyond,
    unseen: Unseen,
    parts: Parts,
    whole: float,
) -> dict[str, Any]:
    """What the provenance says of this calibration."""
    return {
        "command": shlex.join(["offramp", *sys.argv[1:]]),
        "policy": asdict(reached.policy) | {"id": reached.policy.id},
        "is_met": reached.is_met,
        **reached.figures,
        "measured": reached.measured._asdict(),
        "degraded": [one._asdict() for one in beyond.degraded],
        "cost": {"unit": args.cost, "whole": whole},
        "data": {
            "name": unseen.name,
            "sha256": unseen.sha256,
            "fitted_on": len(parts.fit),
            "checked_on": len(parts.check),
            "seed": args.seed,
            "left_out": unseen.left_out,
            "compared_with_training": unseen.compared,
        },
    }


def _saved(share: float) -> str:
    return f"{share:.1%} saved" if share >= 0 else f"{-share:.1%} more than without early exits"


def _lines(
    bundle: Bundle,
    reached: Reached,
    beyond: _Beyond,
    unseen: Unseen,
    unit: str,
    whole: float,
) -> Iterator[str]:
    measured = reached.measured
    yield f"policy {reached.policy.name} {reached.policy.id[:12]}: {reached.verdict}"
    shares = ", ".join(f"{share:.1%}" for share in measured.exit_shares)
    yield f"leaving at each exit: {shares}, of {measured.samples:,} of {unseen.name}"
    cost = measured.mean_cost / 1e6 if unit == "flops" else measured.mean_cost
    saved = f", {_saved(1 - measured.mean_cost / whole)}" if whole else ""
    yield f"{cost:,.1f} {'MFLOPs' if unit == 'flops' else 'bytes up'} a sample{saved}"
    if measured.accuracy is not None and measured.last_exit_accuracy is not None:
        yield f"accuracy {measured.accuracy:.2%}, the last exit's {measured.last_exit_accuracy:.2%}"
    for one in beyond.degraded:
        if one.accuracy is not None and one.interval is not None:
            low, high = one.interval
            yield (
                f"degraded at exit {one.exit}, not certified: {one.accuracy:.1%} [{low:.1%}, {high:.1%}] of the "
                f"{one.handed_on:,} that it would hand on are right, {one.all_accuracy:.2%} of all"
            )
    for n, step in enumerate(beyond.brownout.steps if beyond.brownout else (), 1):
        right = "" if step.accuracy is None else f", accuracy {step.accuracy:.2%}"
        shares = ", ".join(f"{share:.1%}" for share in step.exit_shares)
        yield f"brown-out step {n}, not certified: leaving {shares}{right}"
    if unseen.left_out:
        yield f"left out: {unseen.left_out:,} samples identical to one trained on or to another here"
    if unseen.compared == "not checked":
        yield "overlap with training: not checked, for the bundle does not say what was trained on"
    there = bundle.manifest.policy(reached.policy.name)
    written = there is not None and there.id == reached.policy.id
    yield f"{bundle.folder}: {'network ' + bundle.digest[:12] if written else 'unchanged'}"
    if written:
        yield f"use it with --policy {shlex.quote(reached.policy.name)}"
