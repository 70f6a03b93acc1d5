"""Cost against window size as a picture.

figures of window.py ──► [draw_costs] ──► PNG
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend comes first

TITLES = {
    "driftgraph": "driftgraph",
    "dgl": "DGL",
    "torch_geometric": "PyG LastNeighborLoader",
    "tgm": "TGM",
    "scipy": "rebuild with SciPy",
    "lists": "Python lists",
}
COLORS = {
    "driftgraph": "#c2410c",
    "dgl": "#1d4ed8",
    "torch_geometric": "#0f766e",
    "tgm": "#7e22ce",
    "scipy": "#525252",
    "lists": "#a16207",
}
ALONE = ("driftgraph", "torch_geometric", "tgm", "scipy", "lists")  # with one sampler, which needs no name


def draw_costs(sizes: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Two panels, log scales: nanoseconds an event appended, nanoseconds a neighbor found."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), constrained_layout=True)
    names = dict.fromkeys(name for size in sizes.values() for name in size)
    for name in names:
        measured = {int(size): found[name] for size, found in sizes.items() if name in found}
        style: dict[str, Any] = {"color": COLORS[name], "marker": "o"}
        style["lw"] = 2.4 if name == "driftgraph" else 1.3
        cost = [1e9 / found["append_per_s"] for found in measured.values()]
        left.plot(list(measured), cost, label=TITLES[name], **style)
        for number, sampler in enumerate(next(iter(measured.values()))["samplers"]):
            found = [one["samplers"][sampler] for one in measured.values()]
            exact = min(one["now_exact"] for one in found)
            title = TITLES[name] if name in ALONE else f"{TITLES[name]}, {sampler}"
            style |= {"label": f"{title}: {exact:.0%} exact", "ls": "--" if number else "-"}
            right.plot(list(measured), [1e9 / one["now_per_s"] for one in found], **style)
    left.set_title("an event appended, ready to be sampled")
    right.set_title("a neighbor of the 10 most recent, now")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="events in the window", ylabel="nanoseconds")
        axes.grid(True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
