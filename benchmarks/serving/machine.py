"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine(server_core: int, load_core: int, load_before: float) -> dict[str, Any]:
    """Processor, cores, and how busy the machine was before it all began (load average of a minute)."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "server_core": server_core,
        "load_core": load_core,
        "load_before": round(load_before, 2),
    }
