"""Three tiers over emulated links as a section of docs/results.md: a table a profile, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.table import table

OURS = ("three_tier", "certified")
NAMES = {
    "three_tier": "three tiers, with exits",
    "certified": "three tiers, certified policy",
    "first_exit": "first exit only",
    "all_device": "all on the device",
    "plain_split": "plain split, exits off",
    "cloud_png": "cloud only, PNG",
    "cloud_jpeg": "cloud only, JPEG q75",
}
_HEADINGS = (
    *("", "p50, ms", "p95", "p99", "bytes up", "down", "right, %"),
    *("device, %", "fog", "cloud", "degraded, %"),
)


def arms_of(found: dict[str, Any], profile: str) -> dict[str, dict[str, Any]]:
    """The results of a profile by arm, those that cross no link among them, as NAMES has them in order."""
    every = found["local"]["arms"] | found["profiles"][profile]["arms"]
    return {name: every[name] for name in NAMES if name in every}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _row(name: str, arm: dict[str, Any], images: int, *, ours: bool) -> tuple[str, ...]:
    times = (_number(arm[key]) for key in ("p50_ms", "p95_ms", "p99_ms"))
    shares = (f"{100 * arm['shares'][tier]:.1f}" for tier in ("device", "fog", "cloud"))
    return (
        f"**{NAMES[name]}**" if ours else NAMES[name],
        *times,
        *(_number(arm[key]) for key in ("bytes_up", "bytes_down")),
        f"{100 * arm['accuracy']:.1f}",
        *shares,
        f"{100 * arm['degraded'] / images:.1f}",
    )


def _link(name: str, facts: dict[str, Any]) -> str:
    clipped = ""
    if facts["clipped"]:
        ways = " and ".join(facts["clipped"])
        clipped = f", rates {ways} clipped to {facts['limit_mbit']:g} Mbit/s"
    return (
        f"{name} `{facts['profile']}` ({facts['kind']}, seed {facts['seed']}; round trip p50 "
        f"{facts['round_trip_p50_ms']:.1f} ms, p95 {facts['round_trip_p95_ms']:.1f} ms, open "
        f"{facts['passing_share']:.1%} of the time{clipped}; congestion control {facts['congestion']})"
    )


def _profile(found: dict[str, Any], profile: str) -> Iterator[str]:
    links = found["profiles"][profile]["links"]
    yield f"### {profile}"
    yield f"{_link('Device to fog:', links['device'])}; {_link('fog to cloud:', links['fog'])}."
    results = arms_of(found, profile)
    rows = [_row(name, arm, found["images"], ours=name in OURS) for name, arm in results.items()]
    yield table(_HEADINGS, rows)
    gone = [f"{NAMES[n]} {arm['unanswered']}" for n, arm in results.items() if arm["unanswered"]]
    if gone:
        yield f"Images that had no answer in time, and are in none of these figures: {', '.join(gone)}."


def _machines(found: dict[str, Any]) -> str:
    if not found["machines"]:
        return (
            "No tier profiles: the three tiers are equal, each this machine's own speed, so a device as fast as "
            "its cloud. What a slower device would gain from handing on does not show here."
        )
    these = ", ".join(f"{tier} as `{name}`" for tier, name in found["machines"].items())
    return f"Tier profiles: {these}; stages are stretched by a profile's slowdown, which is an estimate."


def _count(found: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> int:
    return sum(holds(arms_of(found, profile)) for profile in found["profiles"])


def _below(key: str, other: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arms: arms["three_tier"][key] < arms[other][key]


def _remarks(found: dict[str, Any]) -> str:
    """Against every baseline, over how many profiles three tiers are faster; and what they cost in accuracy."""
    of = len(found["profiles"])
    parts = []
    for other in ("plain_split", "cloud_png", "cloud_jpeg", "all_device"):
        p50, p95 = (_count(found, _below(key, other)) for key in ("p50_ms", "p95_ms"))
        parts.append(f"{NAMES[other]}: p50 in {p50}, p95 in {p95}")
    three = [arms_of(found, profile)["three_tier"] for profile in found["profiles"]]
    local = found["local"]["arms"]["all_device"]["accuracy"]
    worst = min(arm["accuracy"] for arm in three)
    return (
        f"Of {of} profiles, the three tiers with the default policy are faster than {'; '.join(parts)}. Their "
        f"accuracy is {100 * worst:.1f} % at the least, degraded answers included; every stage on the device is "
        f"right {100 * local:.1f} % of the time, needs no link, and is what a split has to be worth more than."
    )


def _said(record: dict[str, Any]) -> str:
    found = record["found"]
    seconds = found["images"] / found["per_second"]
    lossless = " It loses no packet and has no slow start." if found["engine"] == "stream" else ""
    return (
        f"`{record['command']}`: engine **{found['engine']}** on both links, the kernel's congestion control "
        f"`{found['kernel_congestion']}`, timelines of seed {found['seed']} (fog to cloud one more).{lossless} "
        f"{found['images']:,} test images, {found['per_second']:g} a second whatever became of those before, "
        f"{found['deadline_s']:g} s for each answer; then the exit at hand answers, degraded. Every arm meets the same "
        f"{seconds:g} s of links: pieces of {found['piece_s']:g} s, at equal distances over ten minutes. Latency at "
        "the client, bytes of whole messages over all images and both links. What crosses no link was measured once, "
        f"over loopback. {_machines(found)}"
    )


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    name = "profiles_machines" if found["machines"] else "profiles"
    parts = [_said(record), f"![Latency by profile](img/{name}.png)"]
    if found["profiles"]:
        parts.append(_remarks(found))
    for profile in found["profiles"]:
        parts += _profile(found, profile)
    return "\n\n".join(parts)
