"""The section of docs/results.md, and the comparison at equal accuracy that it tells of."""

from __future__ import annotations

from typing import Any

from benchmarks.imagenette.curve import Point, bytes_at
from benchmarks.table import table

Found = dict[str, Any]
_MEDIA = {"jpeg": "JPEG", "webp": "WebP"}
_REVERSE = (
    "The other way round, at each codec's accuracy, what the image needs (interpolated between its "
    'settings; "smaller too" may also scale the image down):'
)


def _point(way: Found, *, cascade: bool, size: str = "message_bytes") -> Point:
    if cascade:
        of = way["cascade"]
        return Point(of["first_link_bytes"], of["accuracy"]["value"])
    accuracy = way["accuracy"] if "accuracy" in way else way["exits"][-1]
    return Point(way[size], accuracy["value"])


def _full_side(found: Found) -> int:
    return max(int(way["side"]) for way in found["sendings"])


def curves(found: Found, *, cascade: bool) -> dict[str, list[Point]]:
    """Points of every way to send, by name; with `cascade`, only what the device does not answer."""
    full, ways = _full_side(found), found["sendings"]
    named = {"wire codec": [_point(codec, cascade=cascade) for codec in found["codecs"]]}
    for media, name in _MEDIA.items():
        of = [way for way in ways if way["media"] == media]
        named[name] = [_point(w, cascade=cascade) for w in of if w["side"] == full]
        if media == "jpeg" and not cascade:
            named[f"{name} without its tables"] = [
                _point(w, cascade=False, size="without_tables") for w in of if w["side"] == full
            ]
        named[f"{name}, smaller too"] = [_point(w, cascade=cascade) for w in of]
    return named


def comparison(found: Found) -> list[Found]:
    """At the accuracy of every image setting of full size: its bytes, and the codec's.

    codec_bytes: interpolated between the codecs' points; None where no codec is so accurate.
    """
    codecs = [_point(codec, cascade=False) for codec in found["codecs"]]
    full = _full_side(found)
    return [
        {
            "media": way["media"],
            "quality": way["quality"],
            "accuracy": way["accuracy"]["value"],
            "image_bytes": way["message_bytes"],
            "codec_bytes": bytes_at(codecs, way["accuracy"]["value"]),
        }
        for way in found["sendings"]
        if way["side"] == full
    ]


def _percent(estimate: Found) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _bytes(size: float | None) -> str:
    return "not reached" if size is None else f"{size:,.0f}"


def _codecs_table(found: Found) -> str:
    return table(
        (
            "wire codec",
            "bytes of a message up",
            "device's FLOPs",
            "device exit",
            "fog exit",
            "last exit",
            "cascade",
            "its bytes an image, first link (both)",
            "left at device, fog, cloud",
        ),
        [
            (
                f"{c['codec']['channels']} channels of {c['codec']['bits']} bits, {c['packed_bytes']} B packed",
                f"{c['message_bytes']:,.0f}",
                f"{100 * c['device_flops_share']:.1f} %",
                *(f"{100 * e['value']:.1f} %" for e in c["exits"][:-1]),
                _percent(c["exits"][-1]),
                _percent(c["cascade"]["accuracy"]),
                f"{c['cascade']['first_link_bytes']:,.0f} ({c['cascade']['both_links_bytes']:,.0f})",
                ", ".join(f"{100 * s:.0f} %" for s in c["cascade"]["shares"]),
            )
            for c in found["codecs"]
        ],
    )


def _equal_table(found: Found) -> str:
    def who(row: Found) -> str:
        if row["codec_bytes"] is None or row["codec_bytes"] > row["image_bytes"]:
            return _MEDIA[row["media"]]
        return f"codec, {row['image_bytes'] / row['codec_bytes']:.1f} times fewer"

    return table(
        ("image", "accuracy", "bytes of a message", "codec at that accuracy", "fewer bytes"),
        [
            (
                f"{_MEDIA[row['media']]} quality {row['quality']}",
                f"{100 * row['accuracy']:.1f} %",
                _bytes(row["image_bytes"]),
                _bytes(row["codec_bytes"]),
                who(row),
            )
            for row in found["comparison"]
        ],
    )


def _reverse_table(found: Found) -> str:
    names = [name for name in curves(found, cascade=False) if name != "wire codec"]

    def rows(sent: str, *, cascade: bool) -> list[tuple[str, ...]]:
        named = curves(found, cascade=cascade)
        return [
            (
                sent,
                _bytes(point.size_bytes),
                f"{100 * point.accuracy:.1f} %",
                *(
                    _bytes(bytes_at(named[name], point.accuracy)) if name in named else ""
                    for name in names
                ),
            )
            for point in named["wire codec"]
        ]

    every = rows("every image", cascade=False)
    some = rows("only what the device does not answer", cascade=True)
    return table(("sent", "codec's bytes", "its accuracy", *names), [*every, *some])


def _against(media: str, rows: list[Found]) -> str:
    """At which qualities the codec needs fewer bytes than an image of full size, and at which not."""
    wins, losses = [], []
    for row in rows:
        fewer = row["codec_bytes"] is not None and row["codec_bytes"] < row["image_bytes"]
        (wins if fewer else losses).append(str(row["quality"]))
    name, parts = _MEDIA[media], []
    if wins:
        parts.append(
            f"the codec needs fewer bytes at the accuracy of {name} quality {', '.join(wins)}"
        )
    if losses:
        parts.append(f"**{name} wins at quality {', '.join(losses)}**")
    return f"At full size {'; '.join(parts)}."


def _against_all(found: Found) -> str:
    """The codecs that some image, scaled down or stripped of its tables, beats in bytes."""
    named = curves(found, cascade=False)
    beaten = []
    for point in named.pop("wire codec"):
        sizes = {name: bytes_at(points, point.accuracy) for name, points in named.items()}
        reached = {name: size for name, size in sizes.items() if size is not None}
        if reached and min(reached.values()) < point.size_bytes:
            best = min(reached, key=lambda name: reached[name])
            beaten.append(
                f"{100 * point.accuracy:.1f} % ({best}: {reached[best]:,.0f} bytes, codec {point.size_bytes:,.0f})"
            )
    if not beaten:
        return (
            "No image, scaled down or stripped of its tables, does with fewer bytes than a codec."
        )
    return f"Of all ways to send an image, **the best wins at {'; '.join(beaten)}**."


def _verdict(found: Found) -> str:
    """Where the codec needs fewer bytes and where the image does, in words."""
    rows = found["comparison"]
    sides = [_against(media, [row for row in rows if row["media"] == media]) for media in _MEDIA]
    return " ".join([*sides, _against_all(found)])


def markdown(record: Found) -> str:
    """The section's body, of the record as `benchmarks.record` reads it."""
    found: Found = record["found"]
    bare = found["bare"]
    worst = max(
        parity["largest_error"]
        for of in (bare, *found["codecs"])
        for parity in of["parity"].values()
    )
    head = (
        f"`{record['command']}`: EfficientNet-Lite0 with published ImageNet weights, frozen "
        f"({bare['flops'] / 2e6:,.0f} million multiply-accumulates), its last layer cut down to Imagenette's ten "
        f"classes. Heads and codecs learned from Imagenette's training images without those of ImageNet's validation "
        f"set; temperatures, thresholds (at most {100 * found['max_drop']:.1f} points lost) and entropy tables come "
        f"from {found['held_out']:,} more of them. Reported are the {found['images']} images of ImageNet's validation "
        f"set, which the pretrained network has not seen; one image is {100 / found['images']:.2f} points. In "
        f"brackets: 95 % intervals. Messages are counted whole, with gRPC's 5 bytes."
    )
    base = (
        f"The network without exits is right on {_percent(bare['accuracy'])} of the images as they are. Where images "
        f"are sent, the device's exit answers {100 * bare['device_answers']:.0f} % itself, and with the others sent as "
        f"they are {_percent(bare['cascade_accuracy'])} are right. All stages ran exported, under onnxruntime; the "
        f"largest difference from PyTorch on equal inputs is {worst:.0e}."
    )
    return "\n\n".join(
        [
            head,
            base,
            _codecs_table(found),
            "Bytes at equal accuracy, at every quality of the image at full size, to the same network:",
            _equal_table(found),
            _REVERSE,
            _reverse_table(found),
            _verdict(found),
            "![accuracy against bytes](img/imagenette.png)",
        ]
    )
