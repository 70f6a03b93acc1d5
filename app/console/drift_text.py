"""Drift for people, and as the fields of a manifest: what moved, and how older generations do today.

    drift_report ──► [fields_of] ──► manifest in Redis ──► [drift_in] ──► generations
                                                   report ──► [lines_of] ──► terminal

Each moved user is a field of its own, so that an erased user leaves a manifest by one command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

MOVED_USER: Final = (
    "moved_user:"  # begins a field of a manifest; snapshots/generations/scripts.py erases by it
)
FIELDS: Final = ("drift", "staleness")
SHOWN_MIN: Final = 0.005  # a lower score would be shown as 0.00


def fields_of(drift: Mapping[str, Any] | None, staleness: Mapping[str, Any] | None) -> dict[str, str | float]:
    """The fields of a manifest."""
    fields: dict[str, str | float] = {}
    if drift is not None:
        users = drift["users"]
        fields |= {f"{MOVED_USER}{one['id']}": float(one["score"]) for one in users["top"]}
        fields["drift"] = json.dumps({**drift, "users": {**users, "top": []}})
    if staleness is not None:
        fields["staleness"] = json.dumps(staleness)
    return fields


def drift_in(manifest: Mapping[str, str]) -> dict[str, Any]:
    """``drift`` and ``staleness`` of a manifest, None where it says nothing of it."""
    found: dict[str, Any] = {
        name: json.loads(manifest[name]) if name in manifest else None for name in FIELDS
    }
    if found["drift"] is not None:
        moved = [(float(score), k.removeprefix(MOVED_USER)) for k, score in manifest.items() if is_user(k)]
        moved.sort(key=lambda one: (-one[0], one[1]))
        found["drift"]["users"]["top"] = [{"id": user, "score": score} for score, user in moved]
    return found


def is_user(field: str) -> bool:
    """Whether a field of a manifest is a moved user."""
    return field.startswith(MOVED_USER)


def lines_of(drift: Mapping[str, Any] | None, staleness: Mapping[str, Any] | None) -> Iterator[str]:
    """The same for people."""
    if drift is not None:
        for kind in ("users", "items"):
            side = drift[kind]
            top = ", ".join(
                f"{one['id']} {one['score']:.2f}" for one in side["top"] if one["score"] >= SHOWN_MIN
            )
            if top:
                usual = f"the median of {side['measured']:,} is {side['median']:.2f}"
                yield f"{kind} that moved most ({usual}): {top}"
        parts = [
            f"{name} {_percent(one['share_before'])} → {_percent(one['share'])} of the events"
            + ("" if one["distance"] is None else f", items apart {one['distance']:.2f}")
            for name, one in drift["behaviors"].items()
            if one["share"] is not None  # else no event has come since the fit before
        ]
        if parts:
            yield f"behaviors: {'; '.join(parts)}"
    if staleness is not None:
        yield f"Recall@20 of vectors on {staleness['events']:,} events: {_curve(staleness)}"


def _curve(staleness: Mapping[str, Any]) -> str:
    ages = [f"{ago(age)} {one['recall_at_20']:.4f}" for age, one in staleness["fits_ago"].items()]
    return ", as published ".join([f"served {staleness['vectors']['recall_at_20']:.4f}", ", ".join(ages)])


def ago(age: str) -> str:
    """``1 fit ago``, ``2 fits ago``."""
    return f"{age} fit{'' if age == '1' else 's'} ago"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
