"""What the wire benchmark concludes from the scores of its networks: rows, curves and bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.wire_runs import SIZES
from benchmarks.wire_scores import Found

BARS = ((256, 0.010), (512, 0.005))  # bytes of a message, accuracy under the network without codec
_OF_CODECS = ("held_out_bytes", "encode_us", "decode_us")
_LEARNED = tuple(variant.name for variant in SIZES)  # the others show what a number of bits does
_SHARE_BAR = 1 / 3  # of the network's FLOPs, on the device's side of the boundary
_CURVES = {"WebP": ("webp", "file"), "JPEG without header": ("jpeg", "without header")}


def rows_of(found: Sequence[Found]) -> list[Found]:
    """One row a form of a message: its bytes, and the accuracy of the last exit behind it."""
    rows = []
    for one in found:
        for form, sizes in one["forms"].items():
            rows.append(
                {
                    "name": one["name"],
                    "form": form,
                    "bytes": sizes["message_bytes"],
                    "largest_bytes": sizes["largest_bytes"],
                    "held_out": one["held_out"][-1],
                    "test": sizes.get("test", one["test"])[-1],
                    "first_exit": one["test"][0],
                    **{key: sizes[key] for key in _OF_CODECS if key in sizes},
                }
            )
    return rows


def _is_codec(row: Found) -> bool:
    return str(row["name"]).startswith("codec")


def chosen(rows: Sequence[Found], most_bytes: int, size: str) -> Found | None:
    """The codec that is best on the held-out images, of those whose messages have at most so many bytes.

    size: `held_out_bytes`, the mean on those images, for what is entropy-coded has a size for each image; or
    `largest_bytes`, so that no message is larger.
    """
    within = [row for row in rows if _is_codec(row) and row[size] <= most_bytes]
    return max(within, key=lambda row: row["held_out"], default=None)


def curve(rows: Sequence[Found], kind: str, form: str) -> list[tuple[float, float]]:
    """(bytes, accuracy) of an image format, by bytes."""
    points = [r for r in rows if str(r["name"]).startswith(f"{kind}_q") and r["form"] == form]
    return sorted((row["bytes"], row["test"]) for row in points)


def above(rows: Sequence[Found]) -> list[Found]:
    """Each form of each codec against each curve, read off between its points, where it has some."""
    compared = []
    for label, (kind, form) in _CURVES.items():
        points = curve(rows, kind, form)
        for row in filter(_is_codec, rows):
            if points and points[0][0] <= row["bytes"] <= points[-1][0]:
                sizes, accuracy = np.array(points).T
                there = float(np.interp(row["bytes"], sizes, accuracy))
                compared.append(
                    {
                        "name": row["name"],
                        "form": row["form"],
                        "curve": label,
                        "bytes": row["bytes"],
                        "above": round(row["test"] - there, 4),
                    }
                )
    return compared


def beaten(rows: Sequence[Found]) -> list[tuple[Found, Found]]:
    """Each form of a codec that an image beats or equals in bytes and accuracy, and the smallest such image."""
    images = [row for row in rows if not _is_codec(row)]
    found = []
    for row in filter(_is_codec, rows):
        better = [i for i in images if i["bytes"] <= row["bytes"] and i["test"] >= row["test"]]
        if better:
            found.append((row, min(better, key=lambda image: float(image["bytes"]))))
    return found


def _drop_bar(rows: Sequence[Found], plain: Found, bar: tuple[int, float], size: str) -> Found:
    most_bytes, drop_bar = bar
    best = chosen(rows, most_bytes, size)
    drop = None if best is None else round(plain["test"][-1] - best["test"], 4)
    which = "in the mean" if size == "held_out_bytes" else "each"
    return {
        "what": f"drop under the network without codec, at most {most_bytes} bytes a message, {which}",
        "name": best and f"{best['name']}, {best['form']}",
        "bytes": best and best["bytes"],
        "largest_bytes": best and best["largest_bytes"],
        "found": drop,
        "bar": drop_bar,
        "holds": drop is not None and drop <= drop_bar,
        "judged": size == "held_out_bytes",
    }


def bars_of(rows: Sequence[Found], plain: Found) -> list[Found]:
    """What each bar asks, what was found, and whether it holds; what is not judged is for the reader."""
    bars = [
        _drop_bar(rows, plain, bar, size)
        for size in ("held_out_bytes", "largest_bytes")
        for bar in BARS
    ]
    compared = [c for c in above(rows) if c["name"] in _LEARNED and c["form"] == "entropy-coded"]
    for label in _CURVES:
        lowest = min((c["above"] for c in compared if c["curve"] == label), default=None)
        bars.append(
            {
                "what": f"entropy-coded codecs, {len(SIZES)} sizes: above the curve of {label}, the least in its range",
                "found": lowest,
                "bar": 0.0,
                "holds": lowest is not None and lowest >= 0,
                "judged": True,
            }
        )
    return bars


def result(found: Sequence[Found]) -> Found:
    """Everything that the report needs."""
    plain = next(one for one in found if one["name"] == "plain")
    rows = rows_of(found)
    shares = [one["device_share"] for one in found if one["recipe"]["codec"]]
    return {
        "networks": list(found),
        "rows": rows,
        "above": above(rows),
        "bars": [
            *bars_of(rows, plain),
            {
                "what": "largest share of the network's FLOPs before the boundary",
                "found": max(shares),
                "bar": round(_SHARE_BAR, 4),
                "holds": max(shares) <= _SHARE_BAR,
                "judged": True,
            },
        ],
    }
