"""How events are written down: each format turns bytes into columns, and one row into its five values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The names of the fields or columns that hold the five values. Events may lack ``event_id``.

    ``attributes`` are those with the values of attributes, of the item and then of the user.
    """

    user: str = "user_id"
    item: str = "item_id"
    behavior: str = "behavior"
    ts: str = "ts"
    event_id: str = "event_id"
    attributes: tuple[str, ...] = ()

    def with_columns(self, columns: Mapping[str, str]) -> FieldNames:
        """A copy with some names replaced: ``{"user": "visitorid"}``.

        Raises:
            ValueError: If a key is not one of the fields.
        """
        known = [f.name for f in fields(self) if f.name != "attributes"]
        for key in columns:
            if key not in known:
                raise ValueError(f"{key!r} is no field of an event; the fields are {', '.join(known)}")
        user, item, behavior, ts, event_id = (columns.get(name, getattr(self, name)) for name in known)
        return FieldNames(user, item, behavior, ts, event_id, self.attributes)


JSON_NAMES = FieldNames()
CSV_NAMES = FieldNames(ts="timestamp")
