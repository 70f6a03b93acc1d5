"""A .proto file as a descriptor: what a schema registry keeps is the text.

    registry ──► text ──► [file_descriptor] ──► DescriptorPool ──► message classes

Reads what decoding needs: messages, fields, maps, oneofs and enums. Options, services, reserved
numbers and extensions are passed over; the pool resolves the names of types, and refuses what does not fit.
Language: protobuf.dev, "Protocol Buffers Language Specification", proto2 and proto3; editions are refused.
"""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

_TOKEN: Final = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|("(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|([A-Za-z_.][\w.]*)|([-+]?[\d][\w.]*)'
    r'|(/\*|["\'])|(.)',  # the one before the last: a comment or a string that does not end
    re.DOTALL,
)
_UNENDED: Final = 4  # the group of _TOKEN that is the beginning of a comment or a string without an end
_SHOWN_MAX: Final = 40  # characters of a text, in a message
_SCALARS: Final = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in (
        "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "bytes",
        "uint32", "sfixed32", "sfixed64", "sint32", "sint64",
    )
}  # fmt: skip
_LABELS: Final[dict[str, FieldDescriptorProto.Label.ValueType]] = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_REQUIRED,
    "repeated": FieldDescriptorProto.LABEL_REPEATED,
}
_PASSED_OVER: Final = ("option", "reserved", "extensions", "extend", "service")
DEPTH_MAX: Final = 32  # of messages in messages


class ProtoSyntaxError(ValueError):
    """When a text is no .proto file that can be read here; the message says where."""


def file_descriptor(name: str, text: str) -> FileDescriptorProto:
    """The descriptor of one file, its messages in the order of the text.

    Raises:
        ProtoSyntaxError: If it cannot be read.
    """
    return _Parser(name, text).file()


class _Parser:
    """Walks the tokens of one file, from the first to the last."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._tokens: list[str] = []
        for match in _TOKEN.finditer(text):
            if match.lastindex == _UNENDED:  # at once: each further search for an end would go through all
                begins = text[match.start() : match.start() + _SHOWN_MAX]
                raise ProtoSyntaxError(f"a comment or a string does not end: {begins!r}")
            if match.lastindex:
                self._tokens.append(match[0])
        self._at = 0
        self._syntax = "proto2"  # what a file without a syntax line is

    def file(self) -> FileDescriptorProto:
        file = FileDescriptorProto(name=self._name)
        while (word := self._next()) is not None:
            if word == "syntax":
                self._expect("=")
                self._syntax = self._needed().strip("\"'")
                if self._syntax not in ("proto2", "proto3"):
                    raise ProtoSyntaxError(f"syntax {self._syntax!r} is neither proto2 nor proto3")
                file.syntax = self._syntax
                self._expect(";")
            elif word == "edition":
                raise ProtoSyntaxError("editions are not read; give the schema a syntax of proto2 or proto3")
            elif word == "package":
                file.package = self._needed()
                self._expect(";")
            elif word == "import":
                what = self._needed()
                what = self._needed() if what in ("public", "weak") else what
                file.dependency.append(what.strip("\"'"))
                self._expect(";")
            elif word == "message":
                self._message(file.message_type.add(), depth=1)
            elif word == "enum":
                self._enum(file.enum_type.add())
            elif word in _PASSED_OVER:
                self._pass_over()
            elif word != ";":
                raise self._wrong(word)
        return file

    def _message(self, message: DescriptorProto, *, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ProtoSyntaxError(f"messages are nested more than {DEPTH_MAX} deep")
        message.name = self._needed()
        self._expect("{")
        optional: list[FieldDescriptorProto] = []
        while (word := self._needed()) != "}":
            if word == "message":
                self._message(message.nested_type.add(), depth=depth + 1)
            elif word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                self._oneof(message)
            elif word == "map" and self._peek() == "<":
                self._map(message)
            elif word in _PASSED_OVER and self._peek() != "=":
                self._pass_over()
            elif word != ";":
                label = _LABELS.get(word)
                kind = word if label is None else self._needed()
                field = self._field(message.field.add(), kind, label)
                if word == "optional" and self._syntax == "proto3":
                    optional.append(field)
        for field in optional:  # each is a oneof of its own, and those come last
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")

    def _field(
        self, field: FieldDescriptorProto, kind: str, label: FieldDescriptorProto.Label.ValueType | None
    ) -> FieldDescriptorProto:
        if kind == "group":
            raise ProtoSyntaxError("groups are not read; make it a message")
        field.label = label or _LABELS["optional"]
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type_name = kind  # a message or an enum: the pool finds out which
        field.name = self._needed()
        self._expect("=")
        field.number = self._number()
        self._options()
        return field

    def _oneof(self, message: DescriptorProto) -> None:
        index = len(message.oneof_decl)
        message.oneof_decl.add(name=self._needed())
        self._expect("{")
        while (word := self._needed()) != "}":
            if word == "option":
                self._pass_over()
            elif word != ";":
                self._field(message.field.add(), word, None).oneof_index = index

    def _map(self, message: DescriptorProto) -> None:
        """A map is a repeated message of key and value."""
        self._expect("<")
        key = self._needed()
        self._expect(",")
        value = self._needed()
        self._expect(">")
        field = self._field(message.field.add(), "placeholder", FieldDescriptorProto.LABEL_REPEATED)
        camel = "".join(word[:1].upper() + word[1:] for word in field.name.split("_"))
        entry = message.nested_type.add(name=f"{camel}Entry")
        field.type_name = entry.name
        entry.options.map_entry = True
        for number, (name, kind) in enumerate((("key", key), ("value", value)), start=1):
            part = entry.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind in _SCALARS:
                part.type = _SCALARS[kind]
            else:
                part.type_name = kind

    def _enum(self, enum: EnumDescriptorProto) -> None:
        enum.name = self._needed()
        self._expect("{")
        while (word := self._needed()) != "}":
            if word == "option" and self._peek() == "allow_alias":
                enum.options.allow_alias = True
                self._pass_over()
            elif word in _PASSED_OVER and self._peek() != "=":
                self._pass_over()
            elif word != ";":
                self._expect("=")
                enum.value.add(name=word, number=self._number())
                self._options()

    def _options(self) -> None:
        """Pass over what stands in brackets, and the semicolon."""
        if self._peek() == "[":
            depth = 0
            while True:
                word = self._needed()
                depth += (word in "[{") - (word in "]}")
                if depth == 0:
                    break
        self._expect(";")

    def _pass_over(self) -> None:
        """To the end of a statement: a semicolon, or the bracket that closes its body."""
        depth = 0
        while True:
            word = self._needed()
            depth += (word == "{") - (word == "}")
            if depth == 0 and word in (";", "}"):
                return

    def _number(self) -> int:
        word = self._needed()
        try:
            octal = word.lstrip("+-").isdigit() and word.lstrip("+-").startswith("0")
            return int(word, 8 if octal else 0)
        except ValueError:
            raise self._wrong(word) from None

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str | None:
        word = self._peek()
        self._at += 1
        return word

    def _needed(self) -> str:
        word = self._next()
        if word is None:
            raise ProtoSyntaxError("the text ends in the middle of a declaration")
        return word

    def _expect(self, wanted: str) -> None:
        word = self._needed()
        if word != wanted:
            raise ProtoSyntaxError(f"expected {wanted!r}, got {word!r} after {' '.join(self._around())!r}")

    def _wrong(self, word: str) -> ProtoSyntaxError:
        return ProtoSyntaxError(f"did not expect {word!r} after {' '.join(self._around())!r}")

    def _around(self) -> list[str]:
        return self._tokens[max(0, self._at - 6) : self._at - 1]
