"""The links of `offramp demo --profile`: what is asked for, whether it can be had, and what to say of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp.cli.extra import needs_extra
from offramp.errors import InvalidInput

if TYPE_CHECKING:
    from offramp.bundle import Bundle
    from offramp.cli.live import LiveView, Shown
    from offramp.evaluation.comparison import Arm
    from offramp.evaluation.rehearsal import Rehearsal, Rehearsed

IMAGES = 500  # of an arm: ten seconds, whatever the links do, and a minute for all arms
_FOG_CLOUD = "wan-region"
_ENGINES = ("auto", "netem", "packet", "stream")
_BELOW = {"device": "device-fog", "fog": "fog-cloud"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that put links between the tiers."""
    links = parser.add_argument_group("emulated links (`offramp link list` has the profiles)")
    links.add_argument("--profile", metavar="NAME", help="of the link between device and fog")
    links.add_argument(
        "--cloud-profile", metavar="NAME", help=f"between fog and cloud ({_FOG_CLOUD})"
    )
    links.add_argument(
        "--engine", choices=_ENGINES, help="auto, the default: the first that works here"
    )
    links.add_argument("--seed", type=int, metavar="N", help="of the links' timelines (0)")


def rehearsal_of(arguments: argparse.Namespace) -> Rehearsal | None:
    """What the flags ask for; None: no links. Nothing is started.

    Raises InvalidInput for an unknown profile (with near names), for an engine that does not work here, and for flags
    that need --profile.
    """
    if arguments.profile is None:
        for flag in ("cloud_profile", "engine", "seed"):
            if getattr(arguments, flag) is not None:
                raise InvalidInput(f"--{flag.replace('_', '-')}", "goes with --profile only")
        return None
    from offramp.evaluation.rehearsal import Rehearsal, link_timelines
    from offramp.links.engines.choosing import choose

    with needs_extra("--profile", "links"):
        timelines = link_timelines(
            arguments.profile, arguments.cloud_profile or _FOG_CLOUD, seed=arguments.seed or 0
        )
    return Rehearsal(links=timelines, engine=choose(arguments.engine or "auto"))


def announcement(rehearsal: Rehearsal, images: int, there: int) -> str:
    """One line: which links, by which engine, and how many images that leaves time for."""
    links = ", ".join(
        f"{_BELOW[tier]} {timeline.name} ({timeline.kind}, seed {timeline.seed})"
        for tier, timeline in rehearsal.links.items()
    )
    fewer = f" of {there:,}" if images < there else ""
    pace = f"{images:,}{fewer} images, {rehearsal.per_second:g} a second"
    return f"{links}; engine {rehearsal.engine}; {pace}, {rehearsal.deadline_s:g} s for an answer"


def over_links(
    bundle: Bundle,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    arms: Sequence[Arm],
    rehearsal: Rehearsal,
    view: LiveView,
) -> Shown:
    """The arms over those links, and what to show of them."""
    from offramp.cli.live import Shown, rehearsal_table
    from offramp.evaluation.comparison import as_json
    from offramp.evaluation.rehearsal import rehearse

    with view:
        rehearsed = rehearse(bundle, images, labels, arms, rehearsal, watch=view.saw)
    results = rehearsed.results
    table = rehearsal_table(
        results, len(images), per_second=rehearsal.per_second, deadline_s=rehearsal.deadline_s
    )
    figures = as_json(bundle, results) | {"rehearsal": rehearsed.as_json()}
    return Shown(results, table, figures, list(_remarks(rehearsed)))


def _remarks(rehearsed: Rehearsed) -> Iterator[str]:
    """What a reader of the table must know of the links, a line each."""
    for tier, facts in rehearsed.links.items():
        if facts["clipped"]:
            yield (
                f"{_BELOW[tier]}: rates {' and '.join(facts['clipped'])} above {facts['limit_mbit']:g} Mbit/s are "
                f"clipped to it, the limit of engine {facts['engine']}"
            )
    if any(facts["engine"] == "stream" for facts in rehearsed.links.values()):
        yield "engine stream loses no packet and has no slow start: lossy links are worse than this"
    for name, result in rehearsed.results.items():
        if result.unanswered:
            yield f"{name}: {result.unanswered} images had no answer in time, and are in none of its figures"
