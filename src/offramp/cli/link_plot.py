"""`offramp link plot`: a link over time, and how often each value comes beside the profile's table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cli.extra import needs_extra
from offramp.cli.outputs import check_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from offramp.links.marginals import Marginal
    from offramp.links.profile import Profile
    from offramp.links.timeline import Timeline

_UP, _DOWN, _TABLE = "#264653", "#2a9d8f", "#9aa5ab"
_HOLD, _DROP = "#e9c46a", "#e76f51"
_NAMES = {
    "round_trip_ms": "round trip, ms",
    "rate_up_mbit": "rate up, Mbit/s",
    "rate_down_mbit": "rate down, Mbit/s",
}


def add_plot(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser("plot", help="draw a timeline, beside its profile's quantiles")
    parser.add_argument("source", help="a profile's name, a file *.yaml, or a timeline *.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="of a profile's timeline (0)")
    parser.add_argument("--duration", type=float, default=600.0, metavar="S", help="seconds (600)")
    parser.add_argument("--step-ms", type=float, default=50.0, metavar="MS", help="a row's (50)")
    parser.set_defaults(run=run_plot)


def run_plot(arguments: argparse.Namespace) -> int:
    """Write the picture."""
    check_picture("--out", arguments.out)
    with needs_extra("link", "links"):
        timeline, profile = _source(arguments)
    with needs_extra("link plot", "demo"):
        import matplotlib as mpl

        mpl.use("Agg")
    draw(timeline, profile, arguments.out)
    print(f"{arguments.out}: {timeline.name} ({timeline.kind}), {timeline.duration_s:g} s")
    return 0


def _source(arguments: argparse.Namespace) -> tuple[Timeline, Profile | None]:
    """A timeline, and the profile that it was compiled of where that is known."""
    from offramp.links.compiling import compile_profile
    from offramp.links.profile import load_profile, profile_names
    from offramp.links.timeline import read_timeline

    if arguments.source.endswith(".csv"):
        timeline = read_timeline(Path(arguments.source))
        known = timeline.name in profile_names()
        return timeline, load_profile(timeline.name) if known else None
    profile = load_profile(arguments.source)
    step_s = arguments.step_ms / 1000
    timeline = compile_profile(
        profile, seed=arguments.seed, duration_s=arguments.duration, step_s=step_s
    )
    return timeline, profile


def draw(timeline: Timeline, profile: Profile | None, path: Path) -> None:
    """Write a PNG: delay and rates over time with the states behind them; below, the distributions."""
    from matplotlib import pyplot as plt

    from offramp.links.marginals import marginals

    figure = plt.figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(3, 3)
    over_time = [figure.add_subplot(grid[row, :]) for row in (0, 1)]
    _draw_delay(over_time[0], timeline)
    _draw_rates(over_time[1], timeline)
    for column, marginal in enumerate(marginals(profile, timeline) if profile else ()):
        _draw_marginal(figure.add_subplot(grid[2, column]), marginal)
    figure.suptitle(
        f"{timeline.name} ({_called(timeline.kind)}), seed {timeline.seed}, rows of {1000 * timeline.step_s:g} ms"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _called(kind: str) -> str:
    return "target, not measured" if kind == "target" else kind


def _times(timeline: Timeline) -> list[float]:
    return [row * timeline.step_s for row in range(len(timeline.up.state))]


def _draw_delay(axes: Axes, timeline: Timeline) -> None:
    times = _times(timeline)
    axes.plot(times, timeline.up.delay_ms, color=_UP, lw=0.7, label="up")
    axes.plot(times, timeline.down.delay_ms, color=_DOWN, lw=0.7, label="down")
    axes.set(ylabel="delay one way, ms", xlim=(0, timeline.duration_s))
    axes.set_ylim(bottom=0)
    _draw_states(axes, timeline)
    axes.legend(loc="upper right", fontsize=8, ncols=4)


def _draw_rates(axes: Axes, timeline: Timeline) -> None:
    times = _times(timeline)
    axes.plot(times, timeline.up.rate_mbit, color=_UP, lw=0.7, label="up")
    axes.plot(times, timeline.down.rate_mbit, color=_DOWN, lw=0.7, label="down")
    axes.set_yscale("symlog", linthresh=1)
    axes.set(ylabel="rate, Mbit/s", xlabel="s", xlim=(0, timeline.duration_s))
    axes.set_ylim(bottom=0)
    _draw_states(axes, timeline)


def _draw_states(axes: Axes, timeline: Timeline) -> None:
    from offramp.links.timeline import State

    times = _times(timeline)
    for state, colour in ((State.HOLD, _HOLD), (State.DROP, _DROP)):
        where = (timeline.up.state == state) | (timeline.down.state == state)
        if where.any():
            across: Any = axes.get_xaxis_transform()
            name = state.name.lower()
            axes.fill_between(
                times, 0, 1, where=where.tolist(), step="post", transform=across,
                color=colour, alpha=0.5, lw=0.5, label=f"{name}, either way",
            )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _draw_marginal(axes: Axes, marginal: Marginal) -> None:
    import numpy as np

    values = np.sort(marginal.values)
    shares = (np.arange(len(values)) + 1) / len(values)
    axes.plot(
        marginal.table.values, marginal.table.probabilities, "o-", color=_TABLE, label="table"
    )
    axes.plot(values, shares, color=_UP, lw=1, label="timeline")
    axes.set_xscale("symlog", linthresh=1)
    axes.set(
        title=f"{_NAMES[marginal.name]}: distance {marginal.distance:.4f}",
        ylabel="share at most",
        ylim=(0, 1.02),
    )
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
