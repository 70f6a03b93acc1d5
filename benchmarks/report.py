"""What every benchmark prints: figures, the bounds that must hold, and an exit code that says if they did.

measure ──► figures, Required … ──► [Report] ──► JSON or text, exit 0 or 1
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Required:
    """One bound. ``value`` is None if it could not be measured; then it does not hold."""

    name: str
    value: float | None
    bound: str  # as people write it: ">= 50"
    ok: bool


def at_least(name: str, value: float | None, bound: float) -> Required:
    """``value`` must be ``bound`` or more."""
    return Required(name, _rounded(value), f">= {bound:g}", value is not None and value >= bound)


def at_most(name: str, value: float | None, bound: float) -> Required:
    """``value`` must be ``bound`` or less."""
    return Required(name, _rounded(value), f"<= {bound:g}", value is not None and value <= bound)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def machine() -> Figures:
    """What the numbers were measured on, and how busy it was before."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def finish(figures: Mapping[str, Any], required: Sequence[Required], *, as_json: bool) -> None:
    """Print the report and exit: 0 if every bound holds, 1 if one does not."""
    if as_json:
        print(json.dumps({"figures": figures, "required": [asdict(entry) for entry in required]}, indent=1))
    else:
        for entry in required:
            value = "not measured" if entry.value is None else f"{entry.value:g}"
            print(f"{'ok    ' if entry.ok else 'FAILED'}  {entry.name}: {value} ({entry.bound})")
    sys.exit(0 if all(entry.ok for entry in required) else 1)
