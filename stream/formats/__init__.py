"""How events are written down: each format turns bytes into columns, and one row into its five values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Which field or column holds what. ``event_id`` may be absent from the events."""

    user: str = "user_id"
    item: str = "item_id"
    behavior: str = "behavior"
    ts: str = "ts"
    event_id: str = "event_id"

    def with_columns(self, columns: Mapping[str, str]) -> FieldNames:
        """These names with some replaced: ``{"user": "visitorid"}``.

        Raises:
            ValueError: If a key is none of the fields.
        """
        known = [f.name for f in fields(self)]
        for key in columns:
            if key not in known:
                raise ValueError(f"{key!r} is no field of an event; the fields are {', '.join(known)}")
        return replace(self, **columns)


JSON_NAMES = FieldNames()
CSV_NAMES = FieldNames(ts="timestamp")
