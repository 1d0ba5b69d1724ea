"""`offramp link`: the links that there are, what is known of them, and timelines made of them.

`list`, `show` and `compile` are here; `plot` is in `link_plot`, what puts a link on an address in `link_run`
and `link_validate`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cli import link_plot, link_run, link_validate
from offramp.cli.extra import needs_extra
from offramp.cli.outputs import check_output

if TYPE_CHECKING:
    from offramp.links.compiling import Traces
    from offramp.links.marginals import Marginal
    from offramp.links.profile import Profile
    from offramp.links.quantiles import Quantiles
    from offramp.links.timeline import Direction, Timeline

_PERCENTS = (5, 50, 95, 99)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb and its own verbs."""
    parser = subparsers.add_parser("link", help="emulated links: profiles, timelines, engines")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_list(verbs)
    _add_show(verbs)
    _add_compile(verbs)
    link_plot.add_plot(verbs)
    link_run.add_run(verbs)
    link_run.add_set(verbs)
    link_validate.add_validate(verbs)


def add_timeline_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that make a timeline of a profile: --seed, --duration (None: not given) and --step-ms."""
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same timeline (0)")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds; then it starts again")
    parser.add_argument(
        "--step-ms", type=float, default=50.0, metavar="MS", help="length of a row, 20 to 100 (50)"
    )


def _add_list(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("list", help="the profiles, and what each may be called")
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.set_defaults(run=run_list)


def _add_show(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("show", help="every number of a profile, with tag and source")
    parser.add_argument("profile", help="name, or a file *.yaml")
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.set_defaults(run=run_show)


def _add_compile(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "compile",
        help="make a timeline of a profile, or of a trace and a profile",
        description="Write rows of delay, rate and state of both directions as CSV. A trace takes the place "
        "of the profile's rate up, rate down or round trip; the rest stays the profile's, events too.",
    )
    parser.add_argument("profile", help="name, or a file *.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the CSV to write")
    add_timeline_flags(parser)
    traces = parser.add_argument_group("traces of your own")
    traces.add_argument("--trace-up", type=Path, metavar="FILE", help="rate of the way up")
    traces.add_argument("--trace-down", type=Path, metavar="FILE", help="rate of the way down")
    traces.add_argument("--trace-delay", type=Path, metavar="FILE", help="round trips (gnettrack)")
    traces.add_argument(
        "--format",
        default="columns",
        choices=("mahimahi", "columns", "gnettrack"),
        help="of all traces: mahimahi, columns (seconds and Mbit/s; the default), G-NetTrack's CSV",
    )
    parser.add_argument("--json", action="store_true", help="print the summary for machines")
    parser.set_defaults(run=run_compile)


def run_list(arguments: argparse.Namespace) -> int:
    """Print a row a profile."""
    with needs_extra("link", "links"):
        from offramp.links.profile import load_profile, profile_names
    profiles = [load_profile(name) for name in profile_names()]
    if arguments.json:
        print(json.dumps([_summary(profile) for profile in profiles], indent=2))
        return 0
    heads = "round trip, ms", "up, Mbit/s", "down, Mbit/s"
    print(f"{'profile':<18} {'kind':<9} {heads[0]:<14} {heads[1]:<14} {heads[2]:<14} title")
    print(f"{'':<18} {'':<9} {'p50/p95/p99':<14} {'p5/p50/p95':<14} {'p5/p50/p95':<14}")
    for profile in profiles:
        round_trip = _figures(profile.round_trip_ms.table, (50, 95, 99))
        up, down = (
            _figures(way.rate_mbit.table, (5, 50, 95)) for way in (profile.up, profile.down)
        )
        print(
            f"{profile.name:<18} {profile.kind:<9} {round_trip:<14} {up:<14} {down:<14} {profile.title}"
        )
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print every number of a profile with its tag and source."""
    with needs_extra("link", "links"):
        from offramp.links.profile import load_profile
    profile = load_profile(arguments.profile)
    if arguments.json:
        print(json.dumps({"kind": profile.kind, **profile.model_dump(mode="json")}, indent=2))
        return 0
    print(f"profile  {profile.name}\nkind     {profile.kind}\ntitle    {profile.title}")
    if profile.note:
        print(f"note     {profile.note.strip()}")
    one_way = profile.round_trip_ms.table
    for name, share in _shares(profile):
        print(f"{name:<8} one way {_figures(one_way, _PERCENTS, share)} ms at p5/p50/p95/p99")
    for path, sourced in profile.sourced():
        value = getattr(sourced, "value", None)
        table = getattr(sourced, "at", {})
        shown = " ".join(f"p{k:g}={v:g}" for k, v in sorted(table.items())) or f"{value:g}"
        print(f"\n{path}: {shown}\n  {sourced.tag}: {sourced.source}")
    return 0


def run_compile(arguments: argparse.Namespace) -> int:
    """Write a timeline and print what is in it."""
    with needs_extra("link", "links"):
        from offramp.links.compiling import compile_profile
        from offramp.links.marginals import marginals
        from offramp.links.profile import load_profile
    check_output("--out", arguments.out)
    profile = load_profile(arguments.profile)
    step_s = arguments.step_ms / 1000
    traces = _traces(arguments, step_s)
    duration_s = arguments.duration
    if duration_s is None:
        duration_s = traces.rows * step_s or 600.0
    timeline = compile_profile(
        profile, seed=arguments.seed, duration_s=duration_s, step_s=step_s, traces=traces
    )
    timeline.write(arguments.out)
    found = [] if timeline.kind == "trace" else marginals(profile, timeline)
    summary = _compiled(timeline, found)
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return 0
    print(
        f"{arguments.out}: {summary['rows']} rows of {arguments.step_ms:g} ms, {timeline.duration_s:g} s"
    )
    print(f"profile {timeline.name} ({timeline.kind}), seed {timeline.seed}")
    for way in ("up", "down"):
        print(f"{way:<5} held {summary[way]['held']:.2%}, dropped {summary[way]['dropped']:.2%}")
    for row in summary["marginals"]:
        print(f"{row['name']}: Kolmogorov distance to the table {row['distance']:.5f}{_lag(row)}")
    return 0


def _lag(row: dict[str, Any]) -> str:
    if row["correlation"] is None:
        return ""
    return f", lag-1 correlation {row['correlation']:.4f} ({row['wanted_correlation']:.4f} stated)"


def _traces(arguments: argparse.Namespace, step_s: float) -> Traces:
    from offramp.links.compiling import Traces
    from offramp.links.importing import Quantity, read_trace

    files: dict[Quantity, Path | None] = {
        "rate_up_mbit": arguments.trace_up,
        "rate_down_mbit": arguments.trace_down,
        "round_trip_ms": arguments.trace_delay,
    }
    read = {
        quantity: read_trace(path, arguments.format, quantity, step_s)
        for quantity, path in files.items()
        if path is not None
    }
    stems = dict.fromkeys(path.stem for path in files.values() if path is not None)
    return Traces(**read, name="+".join(stems))


def _summary(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "kind": profile.kind,
        "title": profile.title,
        "round_trip_ms": profile.round_trip_ms.table.percentiles,
        "rate_up_mbit": profile.up.rate_mbit.table.percentiles,
        "rate_down_mbit": profile.down.rate_mbit.table.percentiles,
        "events": [event.name for event in profile.events],
    }


def _compiled(timeline: Timeline, found: list[Marginal]) -> dict[str, Any]:
    def way(direction: Direction) -> dict[str, float]:
        rows = len(direction.state)
        return {
            "held": int((direction.state == 1).sum()) / rows,
            "dropped": int((direction.state == 2).sum()) / rows,
        }

    return {
        "name": timeline.name,
        "kind": timeline.kind,
        "seed": timeline.seed,
        "step_s": timeline.step_s,
        "rows": len(timeline.up.state),
        "up": way(timeline.up),
        "down": way(timeline.down),
        "marginals": [
            {
                "name": marginal.name,
                "distance": marginal.distance,
                "correlation": marginal.correlation,
                "wanted_correlation": marginal.wanted_correlation,
            }
            for marginal in found
        ],
    }


def _figures(table: Quantiles, percents: tuple[int, ...], factor: float = 1.0) -> str:
    values = [factor * float(table.at(p / 100)) for p in percents]
    return "/".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)


def _shares(profile: Profile) -> list[tuple[str, float]]:
    share = profile.round_trip_ms.up_share.value
    return [("up", share), ("down", 1 - share)]
