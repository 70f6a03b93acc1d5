"""The names of a message's fields, for whoever has to say which of them is the user, the item, …

a message whose event lacks a field ──► [fields_in] ──► the detail of its dead letter ──► validate, doctor
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

NAMES_MAX: Final = 12  # in a sentence
DEPTH_MAX: Final = 4
NAME_CHARACTERS_MAX: Final = 60


def fields_in(message: object) -> str:
    """Half a sentence with the paths of the fields, as a mapping writes them; empty if there are none.

    Of a list, the fields are those of its first element.
    """
    if isinstance(message, list):
        message = message[0] if message else None
    paths = list(_paths(message, "", DEPTH_MAX))
    if not paths:
        return ""
    more = f" and {len(paths) - NAMES_MAX:,} more" if len(paths) > NAMES_MAX else ""
    return f"; its fields are {', '.join(paths[:NAMES_MAX])}{more}"


def _paths(value: object, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping) and value and depth:
        for name, inner in value.items():
            own = str(name)[:NAME_CHARACTERS_MAX]
            yield from _paths(inner, f"{path}.{own}" if path else own, depth - 1)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping) and path:
        yield from _paths(value[0], f"{path}[*]", depth)
    elif path:
        yield path
