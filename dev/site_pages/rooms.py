"""The rooms and the order of their imports as a picture, from the contracts in pyproject.toml.

contracts ──► [draw] ──► docs/rooms.svg

Run it after a change of the contracts: ``python -m site_pages.rooms``. A test holds that
each room is drawn.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt  # the backend comes first
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "rooms.svg"
COLORS = {"app": "#e8eef7", "model": "#e9f5e9", "snapshots": "#fbf1df", "stream": "#f3eaf6"}
EDGE = "#5b6470"
WIDE, HIGH, GAP = 1.62, 0.44, 0.36  # of a box, and between two columns
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "rooms", "font.size": 9}


def columns() -> dict[str, list[list[str]]]:
    """By package, its rooms from those that import most to those that import none; plain files are one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[list[str]]] = {}
    for contract in project["tool"]["importlinter"]["contracts"]:
        for container in contract.get("containers", []):
            package = container.removeprefix("driftgraph.")
            layers = [layer.split(" : ") for layer in contract["layers"]]
            rooms = [one for one in layers if any((ROOT / package / room).is_dir() for room in one)]
            found[package] = rooms if rooms == layers else [*rooms, ["files"]]
    return found


def frame(axes: Axes, package: str, left: float, top: float, layers: list[list[str]]) -> tuple[float, float]:
    """A package with its rooms from left to right; its right and lower edge."""
    most = max(map(len, layers))
    right = left + len(layers) * (WIDE + GAP) + GAP
    bottom = top - 0.5 - most * (HIGH + 0.12)
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            right - left,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.08",
            fc=COLORS[package],
            ec="none",
        )
    )
    axes.text(left + 0.14, top - 0.2, f"{package}/", weight="bold", va="center", color="#20262e")
    middle = (bottom + top - 0.36) / 2
    for column, rooms in enumerate(layers):
        x = left + GAP + column * (WIDE + GAP)
        for place, room in enumerate(rooms):
            y = middle + (len(rooms) / 2 - place - 0.5) * (HIGH + 0.12)
            axes.add_patch(
                FancyBboxPatch(
                    (x, y - HIGH / 2),
                    WIDE,
                    HIGH,
                    boxstyle="round,pad=0,rounding_size=0.06",
                    fc="white",
                    ec=EDGE,
                    lw=0.8,
                )
            )
            axes.text(x + WIDE / 2, y, room, ha="center", va="center", color="#20262e")
        if column:
            arrow(axes, (x - GAP + 0.03, middle), (x - 0.03, middle))
    return right, bottom


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From a room to one that it may import."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=EDGE, lw=1.1, shrinkA=0, shrinkB=0
        )
    )


def draw() -> None:
    """Write the picture."""
    rooms = columns()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(14, 4))
        right, low = frame(axes, "app", 0, 0, rooms["app"])
        beside, snapshots_low = frame(axes, "snapshots", 0, low - 0.5, rooms["snapshots"])
        model_right, model_low = frame(axes, "model", beside + 0.4, low - 0.5, rooms["model"])
        top = min(model_low, snapshots_low) - 0.5
        end, stream_low = frame(axes, "stream", 0, top, rooms["stream"])
        axes.set_xlim(-0.05, max(right, model_right, end) + 0.05)
        axes.set_ylim(stream_low - 0.05, 0.05)
        for x, beneath in ((1.2, snapshots_low), (beside + 1.6, model_low)):
            arrow(axes, (x, low), (x, low - 0.5))
            arrow(axes, (x, beneath), (x, top))
        axes.set_axis_off()
        figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw()
