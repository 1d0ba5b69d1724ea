"""`benchmarks/results/int8.json` as a section of docs/results.md."""

from __future__ import annotations

from typing import Any

from benchmarks.table import table, verdict


def _percent(estimate: dict[str, float]) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _faster(of: float, than: float) -> str:
    return f"{than:.3f} -> {of:.3f} ({than / of:.2f}x)"


def _stages(found: dict[str, Any]) -> str:
    rows = []
    batched = zip(found["batched"]["int8"], found["batched"]["float32"], strict=True)
    for k, (stage, pair, (a, b)) in enumerate(
        zip(found["stages"], found["beside"]["exits"], batched, strict=True)
    ):
        rows.append(
            (
                k,
                f"{stage['arrangement']}: {stage['int8_layers']} of {stage['layers']}",
                f"{pair['other_size_bytes'] / 1e3:,.0f} -> {pair['size_bytes'] / 1e3:,.0f}",
                _faster(pair["time"]["p50_ms"], pair["other_time"]["p50_ms"]),
                _faster(a["p50_ms"], b["p50_ms"]),
            )
        )
    headings = ("stage", "layers in int8", "kB", "ms at batch 1", f"ms at batch {found['batch']}")
    return table(headings, rows)


def _exits(found: dict[str, Any]) -> str:
    rows = [
        (
            k,
            _percent(pair["other_accuracy"]),
            _percent(pair["accuracy"]),
            f"{100 * pair['agreement']:.2f}",
        )
        for k, pair in enumerate(found["beside"]["exits"])
    ]
    headings = ("exit alone", "float32, % right [95 %]", "int8, % right [95 %]", "same label, %")
    return table(headings, rows)


def _policies(found: dict[str, Any]) -> str:
    rows = []
    for name, of in found["networks"].items():
        certificate, policy = of["certificate"], of["policy"]
        leaving = policy["leaving"]
        key = "time" if name == "int8" else "other_time"
        times = [pair[key]["p50_ms"] for pair in found["beside"]["exits"]]
        mean_ms = sum(share * sum(times[: k + 1]) for k, share in enumerate(leaving))
        rows.append(
            (
                name,
                _percent(policy["accuracy"]),
                ", ".join(f"{100 * share:.1f}" for share in leaving),
                f"{policy['flops'] / 1e6:.1f}",
                f"{mean_ms:.3f}",
                f"{certificate['errors']} of {certificate['samples']:,}",
                f"{_percent(certificate['risk'])}: {verdict(certificate['holds'])}",
            )
        )
    made, risk = "errors it was certified on", "risk here, % [95 %]"
    columns = ("% right [95 %]", "leaving at each exit, %", "mean MFLOPs", "mean compute, ms")
    return table(("certified policy of", *columns, made, risk), rows)


def _bars(bars: dict[str, Any]) -> str:
    loss, first = bars["loss"], bars["first_stage"]
    rows = [
        (
            "accuracy that an exit loses at most, points",
            f"{100 * loss['found']:.2f}",
            f"at most {100 * loss['most']:.1f}",
            verdict(loss["holds"]),
        ),
        (
            "stage 0 at batch 1, of the float32 one's time",
            f"{first['found']:.2f}",
            "below 1",
            verdict(first["holds"]),
        ),
    ]
    return table(("what", "found", "bar", ""), rows)


def markdown(record: dict[str, Any]) -> str:
    """The section of docs/results.md, without its heading."""
    found = record["found"]
    epsilon = found["networks"]["int8"]["certificate"]["epsilon"]
    said = (
        f"`{record['command']}`: the bundle {found['bundle']}, and what `offramp quantize` makes of it "
        f"({found['method']}). {found['deciding']:,} images held out of training decided ranges and arrangements; "
        f"both bundles were then calibrated by `offramp calibrate --max-drop {epsilon:g}`, each on its own stages. "
        f"Accuracies and risks are of {found['images']:,} test images. Times are of one thread, the two bundles in "
        "turn; mean compute adds up the stages' medians by who leaves where."
    )
    parts = (said, _stages(found), _exits(found), _policies(found), _bars(found["bars"]))
    return "\n\n".join(parts)
