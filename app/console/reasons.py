"""Why a user is recommended items: a recommendation from Redis, with what the worker says of each item.

Redis ──► a recommendation ──► [reasoned] ──► GET /api/recommend/{user}?why=true, recommend --why
             the worker, by worker_socket ──┘
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from driftgraph.app.console.scorers import PARTS
from driftgraph.app.console.worker_socket import NoAnswerError, ask

if TYPE_CHECKING:
    from rich.console import Console

    from driftgraph.snapshots.answers import Recommendation

NO_LIST: Final = "the user has no list by a scorer: the items are those that rise, or whose vectors are near"
SHOWN_AS: Final = {"popularity" if part == "bank" else part: title for part, title in PARTS.items()}


def recommended(user: str, found: Recommendation) -> dict[str, Any]:
    """What Redis recommends, as JSON."""
    return {
        "user": user,
        "generation": found.generation,
        "source": found.source,
        "event_ms": found.event_ms,
        "items": [{"item": item, "score": score} for item, score in found.items],
    }


def reasoned(data_dir: Path, found: dict[str, Any]) -> dict[str, Any]:
    """A recommendation with ``why`` at each item, or with ``why_not`` where the worker cannot tell."""
    if found["source"] != "list":
        return found | {"why_not": NO_LIST}
    items = [one["item"] for one in found["items"]]
    question = {"ask": "why", "generation": found["generation"], "user": found["user"], "items": items}
    try:
        reasons = ask(data_dir, question)["items"]
    except NoAnswerError as error:
        return found | {"why_not": str(error)}
    told_ = [
        one if why is None else {**one, "why": why} for one, why in zip(found["items"], reasons, strict=True)
    ]
    if (missing := sum(why is None for why in reasons)) == 0:
        return found | {"items": told_}
    return found | {"items": told_, "why_not": f"{missing} of the items have left the window since"}


def print_reasons(told: Mapping[str, Any], out: Console) -> None:
    """Each item with its score, its sentence and its parts, the largest first."""
    for one in told["items"]:
        out.print(f"{one['item']}  {one['score']:.4g}", markup=False, highlight=False)
        if (why := one.get("why")) is not None:
            parts = sorted(why["parts"].items(), key=lambda part: -abs(part[1]))
            shown = ", ".join(f"{SHOWN_AS[name]} {value:.3g}" for name, value in parts if value)
            out.print(f"    {why['says']}\n    {shown}", markup=False, highlight=False, soft_wrap=True)
    if "why_not" in told:
        out.print(f"why not: {told['why_not']}", markup=False, highlight=False, soft_wrap=True)
