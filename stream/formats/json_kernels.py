"""A compiled scan over JSON messages that finds the values of named fields at the top of each object.

It understands a subset of JSON, and gives the same values as the row decoder there. It leaves all other
messages to the row decoder: those with an escape or a nested value in a wanted field, an exponent, deep
nesting, a surrogate or any fault. It allocates nothing for each message and releases the GIL.

``data`` has the bytes of all messages, ``stop`` is the end of the message that is being read. The index -1
means "not understood".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from driftgraph.stream.arrays import I64, U8
from driftgraph.stream.kernels.byte_kernels import equal_bytes, plain_text
from driftgraph.stream.kernels.compile import helper, kernel

_DEPTH_MAX = 32  # open brackets inside one value
_NUMBER_BYTES_MAX = 40  # longer ones may be out of range of a double
_QUOTE, _BACKSLASH, _COMMA, _COLON = ord('"'), ord("\\"), ord(","), ord(":")
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = ord("{"), ord("}"), ord("["), ord("]")
_MINUS, _DOT, _ZERO, _NINE = ord("-"), ord("."), ord("0"), ord("9")
_TRUE, _FALSE, _NULL = ord("t"), ord("f"), ord("n")
_U, _SPACE = ord("u"), ord(" ")


class Fields(NamedTuple):
    """The wanted fields, and what is understood of them."""

    names: U8  # one behind the other
    name_ends: I64
    text_field: int  # where no number is fine
    float_field: int  # where also a number with a fraction is
    ascii_only: bool  # no other byte is understood, since the bytes as a whole are not UTF-8


class _Model(NamedTuple):
    """A message that is understood, and its values as ``_places`` lists them."""

    start: int
    stop: int
    places: I64
    length: int


@helper
def _byte(data: Any, at: int, stop: int) -> int:
    """The byte at an index; 0 at the end, since JSON contains no byte 0."""
    return data[at] if at < stop else 0


@helper
def _blank(data: Any, at: int, stop: int) -> int:
    """The index of the first byte that is not white space."""
    while at < stop and (data[at] == _SPACE or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@kernel
def _is_hex(byte: int) -> bool:
    return _ZERO <= byte <= _NINE or 65 <= byte <= 70 or 97 <= byte <= 102


@kernel
def _escape(data: Any, at: int, stop: int) -> int:
    """From the backslash to after the escape; -1 also for a surrogate, which may lack its second half."""
    kind = _byte(data, at + 1, stop)
    if kind in (34, 92, 47, 98, 102, 110, 114, 116):  # " \ / b f n r t
        return at + 2
    if kind != _U or at + 6 > stop:
        return -1
    for i in range(at + 2, at + 6):
        if not _is_hex(data[i]):
            return -1
    if data[at + 2] in (68, 100) and data[at + 3] >= 56:  # D8.. to DF..
        return -1
    return at + 6


@helper
def _text(data: Any, at: int, stop: int, ascii_only: bool) -> tuple[int, bool]:
    """From after the opening quote to the closing one; and whether the text has no escapes."""
    plain = True
    while at < stop:
        at = plain_text(data, at, stop)
        byte = _byte(data, at, stop)
        if byte == _QUOTE:
            return at, plain
        if byte == _BACKSLASH:
            plain = False
            at = _escape(data, at, stop)
            if at < 0:
                return -1, False
            continue
        if byte < _SPACE or (ascii_only and byte >= 128):
            return -1, False
        at += 1
    return -1, False


@kernel
def _digits(data: Any, at: int, stop: int) -> int:
    while at < stop and _ZERO <= data[at] <= _NINE:
        at += 1
    return at


@kernel
def _number(data: Any, at: int, stop: int) -> tuple[int, bool]:
    """To after the number; and whether the number is an integer."""
    start, whole = at, True
    if data[at] == _MINUS:
        at += 1
    first = at
    at = _digits(data, at, stop)
    if at == first or (data[first] == _ZERO and at > first + 1):
        return -1, False
    if _byte(data, at, stop) == _DOT:
        whole = False
        first = at + 1
        at = _digits(data, first, stop)
        if at == first:
            return -1, False
    # an exponent ends the number here; its letter is neither a comma nor a bracket, so it is not understood
    return (at, whole) if at - start <= _NUMBER_BYTES_MAX else (-1, False)


@kernel
def _literal(data: Any, at: int, stop: int) -> Any:
    """To after ``true``, ``false`` or ``null``."""
    first = data[at]
    if (
        first == _TRUE
        and at + 4 <= stop
        and data[at + 1] == 114
        and data[at + 2] == 117
        and data[at + 3] == 101
    ):
        return at + 4
    if (
        first == _NULL
        and at + 4 <= stop
        and data[at + 1] == 117
        and data[at + 2] == 108
        and data[at + 3] == 108
    ):
        return at + 4
    if first == _FALSE and at + 5 <= stop and data[at + 1] == 97 and data[at + 2] == 108:
        return at + 5 if data[at + 3] == 115 and data[at + 4] == 101 else -1
    return -1


@kernel
def _scalar(data: Any, at: int, stop: int, ascii_only: bool) -> Any:
    """To after a text, a number or a literal."""
    byte = _byte(data, at, stop)
    if byte == _QUOTE:
        end, _ = _text(data, at + 1, stop, ascii_only)
        return end + 1 if end >= 0 else -1
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        end, _ = _number(data, at, stop)
        return end
    return _literal(data, at, stop) if byte else -1


@kernel
def _key(data: Any, at: int, stop: int, ascii_only: bool) -> int:
    """From a key's opening quote to after its colon."""
    if _byte(data, at, stop) != _QUOTE:
        return -1
    end, _ = _text(data, at + 1, stop, ascii_only)
    if end < 0:
        return -1
    at = _blank(data, end + 1, stop)
    return at + 1 if _byte(data, at, stop) == _COLON else -1


@kernel
def _skip(data: Any, at: int, stop: int, ascii_only: bool) -> int:  # noqa: PLR0912  a state machine in one piece
    """To after one value of any kind. Brackets that are open are bits of ``objects``: 1 for ``{``."""
    depth, objects = 0, 0
    while True:
        at = _blank(data, at, stop)
        byte = _byte(data, at, stop)
        if byte in (_OPEN, _OPEN_LIST):
            if depth == _DEPTH_MAX:
                return -1
            is_object = byte == _OPEN
            at = _blank(data, at + 1, stop)
            if _byte(data, at, stop) == (_CLOSE if is_object else _CLOSE_LIST):
                at += 1
            else:
                depth, objects = depth + 1, objects * 2 + (1 if is_object else 0)
                if is_object:
                    at = _key(data, at, stop, ascii_only)
                    if at < 0:
                        return -1
                continue
        else:
            at = _scalar(data, at, stop, ascii_only)
            if at < 0:
                return -1
        while depth > 0:
            at = _blank(data, at, stop)
            byte, is_object = _byte(data, at, stop), objects % 2 == 1
            if byte == _COMMA:
                at += 1
                if is_object:
                    at = _key(data, _blank(data, at, stop), stop, ascii_only)
                    if at < 0:
                        return -1
                break
            if byte != (_CLOSE if is_object else _CLOSE_LIST):
                return -1
            at += 1
            depth, objects = depth - 1, objects // 2
        if depth == 0:
            return at


@kernel
def _field(data: Any, start: int, stop: int, fields: Fields) -> int:
    """Which wanted field this key is, or -1."""
    name_start = 0
    for field in range(len(fields.name_ends)):
        name_stop = fields.name_ends[field]
        if name_stop - name_start == stop - start and equal_bytes(
            data, start, fields.names, name_start, stop - start
        ):
            return field
        name_start = name_stop
    return -1


@kernel
def _wanted(
    data: Any, at: int, stop: int, ascii_only: bool, numbers: bool, floats: bool
) -> tuple[int, int, int]:
    """The span of a wanted value's text, and the index after it. Null is an empty span."""
    byte = _byte(data, at, stop)
    if byte == _QUOTE:
        end, plain = _text(data, at + 1, stop, ascii_only)
        return (at + 1, end, end + 1) if plain else (0, 0, -1)
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        end, whole = _number(data, at, stop)
        # "-0" is the integer 0, whose decimal text is "0"
        negative_zero = byte == _MINUS and _byte(data, at + 1, stop) == _ZERO
        return (at, end, end) if numbers and (whole or floats) and not negative_zero else (0, 0, -1)
    if byte == _NULL:
        return at, at, _literal(data, at, stop)
    return 0, 0, -1


@kernel
def _message(  # noqa: PLR0911  one for each fault
    data: Any, at: int, stop: int, fields: Fields, spans: Any, row: int
) -> bool:
    """Fill ``spans[row]`` of one message; whether all of it is understood."""
    ascii_only = fields.ascii_only
    at = _blank(data, at, stop)
    if _byte(data, at, stop) != _OPEN:
        return False
    at = _blank(data, at + 1, stop)
    if _byte(data, at, stop) == _CLOSE:
        return False  # an empty object: nothing to find
    while True:
        if _byte(data, at, stop) != _QUOTE:
            return False
        end, plain = _text(data, at + 1, stop, ascii_only)
        if not plain:
            return False
        field = _field(data, at + 1, end, fields)
        at = _blank(data, end + 1, stop)
        if _byte(data, at, stop) != _COLON:
            return False
        at = _blank(data, at + 1, stop)
        if field < 0:
            at = _skip(data, at, stop, ascii_only)
        else:
            # a field that comes twice: the last one counts, as in the row decoder
            spans[row, field, 0], spans[row, field, 1], at = _wanted(
                data, at, stop, ascii_only, field != fields.text_field, field == fields.float_field
            )
        if at < 0:
            return False
        at = _blank(data, at, stop)
        byte = _byte(data, at, stop)
        if byte == _CLOSE:
            return bool(_blank(data, at + 1, stop) == stop)
        if byte != _COMMA:
            return False
        at = _blank(data, at + 1, stop)


@kernel
def _places(data: Any, spans: Any, row: int, places: Any) -> int:
    """Find the values of an understood message, in the order of the bytes; return how many there are.

    ``places[k]`` is (field, start, stop, whether it is a text). An empty text, null and an absent field
    belong to the bytes between the values.
    """
    count = 0
    for field in range(len(places)):
        start, stop = spans[row, field, 0], spans[row, field, 1]
        if start == stop:
            continue
        k = count
        while k > 0 and places[k - 1, 1] > start:
            for part in range(4):
                places[k, part] = places[k - 1, part]
            k -= 1
        places[k, 0], places[k, 1], places[k, 2] = field, start, stop
        places[k, 3] = data[start - 1] == _QUOTE
        count += 1
    return count


@helper
def _repeated(data: Any, at: int, stop: int, model: int, model_stop: int) -> int:
    """To after the same bytes as in the model message, or -1."""
    count = model_stop - model
    return at + count if stop - at >= count and equal_bytes(data, at, data, model, count) else -1


@kernel
def _like(data: Any, at: int, stop: int, model: _Model, fields: Fields, spans: Any, row: int) -> bool:
    """Fill ``spans[row]`` of a message that differs from an understood one only in its values; or False.

    A producer writes its messages alike, so this is the usual way, and twice as fast as ``_message``. The
    model is an understood message. A value must be a text or a number as in the model, so this one is
    understood, too.
    """
    like, places = model.start, model.places
    for k in range(model.length):
        field, start = places[k, 0], places[k, 1]
        at = _repeated(data, at, stop, like, start)
        if at < 0:
            return False
        if places[k, 3]:
            end, fine = _text(data, at, stop, fields.ascii_only)
        else:  # a text or null here is found out by what comes after it
            _, end, after = _wanted(data, at, stop, fields.ascii_only, True, field == fields.float_field)
            fine = after >= 0
        if not fine:
            return False
        spans[row, field, 0], spans[row, field, 1] = at, end
        at, like = end, places[k, 2]
    return bool(_repeated(data, at, stop, like, model.stop) == stop)


@helper
def _clear(spans: Any, row: int) -> None:
    for field in range(spans.shape[1]):
        spans[row, field, 0] = spans[row, field, 1] = 0


@kernel
def scan(data: Any, offsets: Any, fields: Fields, spans: Any, places: Any) -> None:
    """Fill ``spans[N, field, 2]`` with where each value's text starts and stops in ``data``.

    A field that is missing or null has an empty span; all fields of a message that is not understood have
    one. ``text_field`` may not be a number; only ``float_field`` may be a number with a fraction.
    ``ascii_only``: other bytes are not understood, since the bytes as a whole are not UTF-8.
    """
    count, model = 0, -1  # model: the last message that ``_message`` has read
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        _clear(spans, i)
        if model >= 0:
            understood = _Model(offsets[model], offsets[model + 1], places, count)
            if _like(data, start, stop, understood, fields, spans, i):
                continue
            _clear(spans, i)
        if _message(data, start, stop, fields, spans, i):
            count, model = _places(data, spans, i, places), i
        else:
            _clear(spans, i)
