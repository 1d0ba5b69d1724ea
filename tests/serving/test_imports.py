"""The serving side runs where there is no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "lightning",
    "matplotlib",
    "rich",
    "pandas",
    "scipy",
    "onnxruntime.quantization",
)


@pytest.mark.parametrize("tier", ["device", "fog", "cloud"])
def test_a_tier_imports_nothing_of_the_torch_side(tier: str) -> None:
    code = (
        f"import sys, offramp_{tier}.__main__, offramp.serving.composition, offramp.client\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))\n"
        "print(*(name for name in sys.modules if name.startswith('offramp_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    heavy, tiers = done.stdout.splitlines()
    assert heavy == ""
    assert set(tiers.split()) == {f"offramp_{tier}", f"offramp_{tier}.__main__"}
