"""Three tiers over emulated links, beside the baselines, for every link profile.

    python -m benchmarks.profiles [--profiles NAME ...] [--engine packet] [--images 600] [--seed 0]
                                  [--machines device=raspberry-pi-4 fog=fog-nuc ...]

Each profile lies between device and fog, `wan-region` between fog and cloud; what crosses no link is measured once,
over loopback. What is measured is kept under --folder, so that a run that was interrupted goes on where it stopped. For
a machine with nothing else to do: a profile takes a minute and a quarter. Exit code 1 where an image had no answer of
the three tiers.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.profiles_table import OURS, markdown
from offramp import data
from offramp.bundle import Bundle, load_bundle
from offramp.errors import InvalidInput
from offramp.evaluation.comparison import Arm, ArmResult, arms, overall_json
from offramp.evaluation.rehearsal import (
    DEADLINE_S,
    PER_SECOND,
    PIECE_S,
    Rehearsal,
    link_timelines,
    rehearse,
)
from offramp.links.engines.choosing import choose
from offramp.links.engines.segment import congestion_control
from offramp.links.profile import load_profile, profile_names
from offramp.serving.tier_profile import read_tier_profile

__all__ = ["main", "markdown"]

MODULE = "benchmarks.profiles"
EXAMPLE = Path("examples/fashion_mnist")
IMAGES = 600  # of an arm: twelve seconds, and six of them are above the 99th percentile
_LOCAL = ("first_exit", "all_device")
_TIERS = ("device", "fog", "cloud")
_POLICY = "certified"

Images = tuple[NDArray[Any], NDArray[np.int64]]


def parse_machines(words: Sequence[str]) -> dict[str, str]:
    """By tier, the profile of its machine, of TIER=NAME. Raises InvalidInput for what is none."""
    found = {}
    for word in words:
        tier, equals, name = word.partition("=")
        if tier not in _TIERS or not equals or not name:
            raise InvalidInput("--machines", f"{word!r} is not TIER=NAME of {', '.join(_TIERS)}")
        read_tier_profile(name)
        found[tier] = name
    return found


def settings_of(arguments: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    """All that a measurement depends on; another value of any makes it another. Raises InvalidInput."""
    load_profile(arguments.cloud_profile)
    if arguments.images < 1:
        raise InvalidInput("--images", f"{arguments.images} is not at least 1")
    with socket.socket() as handle:
        congestion = congestion_control(handle)
    policies = {"three_tier": bundle.manifest.policies[0].name}
    if bundle.manifest.policy(_POLICY):
        policies[_POLICY] = _POLICY
    return {
        "network": bundle.digest,
        "policies": policies,
        "images": arguments.images,
        "per_second": PER_SECOND,
        "deadline_s": DEADLINE_S,
        "piece_s": PIECE_S,
        "seed": arguments.seed,
        "engine": choose(arguments.engine),
        "kernel_congestion": congestion,
        "fog_cloud": arguments.cloud_profile,
        "machines": parse_machines(arguments.machines),
    }


def _arm_json(result: ArmResult) -> dict[str, Any]:
    shares = {name: figures.share for name, figures in result.run.tiers.items()}
    return overall_json(result) | {"shares": shares}


class Measuring:
    """The arms of a bundle on some images, with and without links."""

    def __init__(self, bundle: Bundle, images: Images, settings: dict[str, Any]) -> None:
        self._bundle, self._images, self._settings = bundle, images, settings
        more = [name for name in settings["policies"] if name != "three_tier"]
        every = arms(len(bundle.manifest.network.stages), policies=more)
        self._local = [arm for arm in every if arm.name in _LOCAL]
        self._linked = [arm for arm in every if arm.name not in _LOCAL]

    def local(self) -> dict[str, Any]:
        """What crosses no link."""
        return self._measured(self._local, Rehearsal(machines=self._settings["machines"]))

    def over(self, profile: str) -> dict[str, Any]:
        """The others, over that profile and the fixed one above it."""
        settings = self._settings
        links = link_timelines(profile, settings["fog_cloud"], seed=settings["seed"])
        rehearsal = Rehearsal(links=links, engine=settings["engine"], machines=settings["machines"])
        return self._measured(self._linked, rehearsal)

    def _measured(self, some: Sequence[Arm], rehearsal: Rehearsal) -> dict[str, Any]:
        found = rehearse(self._bundle, *self._images, some, rehearsal)
        results = {name: _arm_json(result) for name, result in found.results.items()}
        return {"links": found.links, "arms": results}


def kept(path: Path, settings: dict[str, Any], measure: Callable[[], Any] | None = None) -> Any:
    """What a file holds where it was measured with these settings; else what is measured now, and written there.

    None where there is nothing and nothing to measure with.
    """
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["settings"] == settings:
            return content["found"]
    if measure is None:
        return None
    found = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "found": found}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return found


def unanswered(found: dict[str, Any]) -> list[str]:
    """Where images went without an answer of the three tiers, in words."""
    return [
        f"{profile}, {arm}: {measured['arms'][arm]['unanswered']} of {found['images']} without an answer"
        for profile, measured in found["profiles"].items()
        for arm in OURS
        if arm in measured["arms"] and measured["arms"][arm]["unanswered"]
    ]


def arguments_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--profiles", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--engine", default="packet", choices=("netem", "packet", "stream"))
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the timelines")
    parser.add_argument("--cloud-profile", default="wan-region", metavar="NAME")
    parser.add_argument("--machines", nargs="+", default=[], metavar="TIER=NAME")
    parser.add_argument("--folder", type=Path, default=Path("runs/profiles"))
    parser.add_argument("--bundle", type=Path, default=EXAMPLE / "bundle")
    parser.add_argument("--data", type=Path, default=EXAMPLE, help="the folder of the test files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write and print; 0 where every image had an answer of the three tiers."""
    parser = arguments_parser()
    args = parser.parse_args(argv)
    try:
        wanted = args.profiles or profile_names()
        for name in wanted:
            load_profile(name)
        bundle = load_bundle(args.bundle)
        settings = settings_of(args, bundle)
    except InvalidInput as exc:
        parser.error(str(exc))
    test = data.load("fashion-mnist", "test", args.data)
    images = test.images[: args.images], test.labels[: args.images]
    measuring = Measuring(bundle, images, settings)
    local = kept(args.folder / "local.json", settings, measuring.local)
    for name in wanted:
        kept(args.folder / f"{name}.json", settings, lambda n=name: measuring.over(n))
        print(f"{name}: measured", file=sys.stderr)
    every = {name: kept(args.folder / f"{name}.json", settings) for name in profile_names()}
    profiles = {name: measured for name, measured in every.items() if measured}
    found = {**settings, "local": local, "profiles": profiles}
    command = record.command(MODULE, argv)
    print(markdown({"command": command, "found": found}))
    if args.images == IMAGES and args.bundle == EXAMPLE / "bundle":
        _write(found, command, test.sha256)
    for line in (missing := unanswered(found)):
        print(line, file=sys.stderr)
    return 1 if missing else 0


def _write(found: dict[str, Any], command: str, sha256: dict[str, str]) -> None:
    from benchmarks.profiles_plot import draw

    name = "profiles_machines" if found["machines"] else "profiles"
    path = record.write(name, found, command=command, data=sha256, seeds=[found["seed"]])
    draw(found, Path(f"docs/img/{name}.png"))
    print(f"{path} written", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
