"""`offramp bundle show|verify BUNDLE`: what a bundle says of itself, and whether it is true; `push` has the others."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from offramp.bundle import Bundle, load_bundle
from offramp.cli import push
from offramp.exits import ExitPolicy


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb and its own verbs."""
    parser = subparsers.add_parser("bundle", help="show or verify a bundle")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    show = verbs.add_parser("show", help="stages, boundaries, costs and policies of a bundle")
    show.add_argument("--json", action="store_true", help="the same for machines")
    show.set_defaults(run=run_show)
    verify = verbs.add_parser(
        "verify", help="check every hash, and open each stage that is here against the manifest"
    )
    verify.set_defaults(run=run_verify)
    for verb in (show, verify):
        verb.add_argument("bundle", type=Path, help="the bundle's folder")
    push.add(verbs)


def _summary(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "network": bundle.digest,
        "held": list(bundle.held),
        "policy_ids": {policy.name: policy.id for policy in manifest.policies},
        **manifest.model_dump(mode="json", exclude={"name", "network"}),
        **manifest.network.model_dump(mode="json"),
    }


def _kind(policy: ExitPolicy) -> str:
    if policy.combine == "none":
        return policy.rule
    weights = ", ".join(f"{setting.weight:.3g}" for setting in policy.exits)
    return f"{policy.rule}, exits combined ({policy.combine}) with weights {weights}"


def _table(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    network = manifest.network
    lines = [
        f"bundle   {manifest.name}",
        f"network  {bundle.digest}",
        f"classes  {', '.join(network.classes)}",
        "",
        "stage  here  boundary                       bytes   MFLOPs  parameters  arithmetic",
    ]
    for k, (boundary, cost) in enumerate(zip(network.boundaries, manifest.costs, strict=True)):
        tensors = " + ".join(
            f"{t.name} {'x'.join(map(str, t.shape))} of {t.bits} bits" for t in boundary.tensors
        )
        flops = cost.flops + cost.head_flops + cost.codec_flops
        parameters = cost.parameters + cost.head_parameters + cost.codec_parameters
        lines.append(
            f"{k:<5}  {'yes' if k in bundle.held else 'no':<4}  {tensors:<28}  "
            f"{boundary.size_bytes:>6}  {flops / 1e6:>7.1f}  {parameters:>10,}  "
            f"{network.stages[k].arithmetic}"
        )
    for policy in manifest.policies:
        lines += ["", f"policy   {policy.name}  {policy.id}", f"  {_kind(policy)}"]
        for k, setting in enumerate(policy.exits):
            last = k == len(policy.exits) - 1
            leaves = "the rest" if last else f"from {setting.threshold:.4f}"
            rule = leaves if setting.on else "off"
            lines.append(f"  exit {k}  {rule:<12}  temperature {setting.temperature:.3f}")
        lines += [
            f"  certified: {certificate}"
            for certificate in manifest.certificates
            if certificate.policy == policy.id
        ]
    return lines


def run_show(args: argparse.Namespace) -> int:
    """Print a bundle whose hashes are right."""
    bundle = load_bundle(args.bundle)
    if args.json:
        print(json.dumps(_summary(bundle), indent=2))
    else:
        print("\n".join(_table(bundle)))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check hashes, then open each stage that is here in a child process, which a bad one may end."""
    from offramp.serving.trial import tried

    bundle = load_bundle(args.bundle)
    asyncio.run(tried(bundle, bundle.held))
    held, of = len(bundle.held), len(bundle.manifest.network.stages)
    print(
        f"{args.bundle}: network {bundle.digest}, {held} of {of} stages, all as the manifest says"
    )
    return 0
