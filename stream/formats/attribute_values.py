"""The value of an attribute in a message, as a text that the tables of attributes read.

    a value of JSON, Avro, Arrow, … ──► [attribute_text] ──► EventBatch.attributes ──► stream/attributes

What a value means depends on the kind of the attribute, which is not known here: a list becomes its values
with ``JOINT`` between them, and a value that no kind has, such as an object, becomes
``NO_VALUE_OF_ITS_KIND``, which is counted and changes nothing.
"""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

from driftgraph.stream.events import JOINT, NO_VALUE_OF_ITS_KIND, Strings
from driftgraph.stream.formats.arrow_columns import strings_of, value_of

TEXT_CHARACTERS_MAX = 4_096  # of a value; what is behind is not read


def attribute_text(value: object) -> str:
    """The text of one value; empty if nothing is said."""
    if isinstance(value, list | tuple):
        parts = [_single(one) for one in value]
        fits = NO_VALUE_OF_ITS_KIND not in parts
        return JOINT.join(filter(None, parts))[:TEXT_CHARACTERS_MAX] if fits else NO_VALUE_OF_ITS_KIND
    return _single(value)


def _single(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | bool | int | float):
        return NO_VALUE_OF_ITS_KIND
    try:
        return str(value)[:TEXT_CHARACTERS_MAX]
    except ValueError:  # CPython writes no integer of more than 4,300 digits
        return NO_VALUE_OF_ITS_KIND


def attribute_texts(column: pa.Array | pa.ChunkedArray) -> Strings:
    """The texts of a column of any type."""
    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind):
        return strings_of(column)
    return Strings.of([attribute_text(value_of(scalar)) for scalar in column])
