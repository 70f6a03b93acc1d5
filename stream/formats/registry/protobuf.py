"""Protobuf messages as objects, by a schema that is only known as text.

text and imports ──► proto_text ──► DescriptorPool ──► [ProtoSchema.read] ──► dict, list, text, number
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from driftgraph.stream.formats.paths import UnsetNumber, UnsetText
from driftgraph.stream.formats.registry.proto_text import file_descriptor

_OWN: Final = "driftgraph.message.proto"  # the name of the schema's own file, which no import has
_GOOGLE: Final = "google/protobuf/"
_WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


class ProtoWireError(ValueError):
    """The bytes before the message name no message of the schema."""


class ProtoSchema:
    """Reads the messages of one schema.

    Raises:
        ValueError, TypeError: If the schema or one of its imports is no usable Protobuf.
    """

    def __init__(self, text: str, references: Mapping[str, str]) -> None:
        self._pool = DescriptorPool()
        self._added: set[str] = set()
        for name, referred in references.items():
            self._add(file_descriptor(name, referred))
        self._file = file_descriptor(_OWN, text)
        self._add(self._file)
        self._classes: dict[tuple[int, ...], Any] = {}

    def read(self, data: bytes) -> dict[str, Any]:
        """The message as an object: enums by name, timestamps as RFC 3339, without fields that are not set.

        A field of proto3 without ``optional`` does not tell whether it was set to 0 or not set at all: it
        becomes an ``UnsetNumber`` or ``UnsetText`` then.

        Raises:
            ProtoWireError: If the path to the message's type is not in the schema.
            google.protobuf.message.DecodeError: If the bytes are not such a message.
        """
        path, start = _path(data)
        made = self._classes.get(path)
        if made is None:
            made = self._classes[path] = self._class_at(path)
        message = made()
        message.ParseFromString(data[start:])
        found: dict[str, Any] = _object(message)
        return found

    def _class_at(self, path: tuple[int, ...]) -> Any:
        messages, name = self._file.message_type, self._file.package
        for index in path:
            if index >= len(messages):
                raise ProtoWireError(f"the schema has no message {list(path)}")
            message: DescriptorProto = messages[index]
            name = f"{name}.{message.name}" if name else message.name
            messages = message.nested_type
        return GetMessageClass(self._pool.FindMessageTypeByName(name))

    def _add(self, file: FileDescriptorProto) -> None:
        """Add a file after its imports. Imports that only have options are missing and not needed."""
        known = [name for name in file.dependency if name in self._added or self._add_google(name)]
        del file.dependency[:]
        file.dependency.extend(known)
        self._pool.AddSerializedFile(file.SerializeToString())
        self._added.add(file.name)

    def _add_google(self, name: str) -> bool:
        """Add one of the files that come with Protobuf itself."""
        if not name.startswith(_GOOGLE):
            return False
        try:
            module = import_module(f"{name.removesuffix('.proto').replace('/', '.')}_pb2")
        except ImportError:
            return False
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        self._add(file)
        return True


def _path(data: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file it is, as indexes from the outside inwards, and where its bytes begin."""
    count, at = _zigzag(data, 0)
    if count == 0:  # short for the first message of the file
        return (0,), at
    if not 0 < count <= len(data):
        raise ProtoWireError(f"a path of {count} steps to the message's type")
    path: list[int] = []
    for _ in range(count):
        step, at = _zigzag(data, at)
        if step < 0:
            raise ProtoWireError(f"the step {step} in the path to the message's type")
        path.append(step)
    return tuple(path), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(data) and shift < 35:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
    raise ProtoWireError("the path to the message's type is cut off")


def _object(message: Any) -> Any:
    """A message as plain values."""
    kind: Descriptor = message.DESCRIPTOR
    if kind.full_name == "google.protobuf.Timestamp":
        try:
            return message.ToJsonString()
        except ValueError:  # out of the years 1 to 9999, such as milliseconds in the seconds
            return f"{message.seconds} s and {message.nanos} ns"  # no time: the text is shown in the refusal
    if kind.full_name in _WRAPPERS:
        return message.value
    found: dict[str, Any] = {}
    for field in kind.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _plain(of, value[key]) for key in value}
        elif field.is_repeated:
            found[field.name] = [_plain(field, one) for one in value]
        else:
            found[field.name] = _plain(field, value) if field.has_presence else _sent(field, value)
    return found


def _sent(field: FieldDescriptor, value: Any) -> Any:
    """A value of a field without presence, whose default is not sent. An enum's default has a name."""
    if field.enum_type is not None or value or isinstance(value, bool):
        return _plain(field, value)
    return UnsetText() if isinstance(value, str | bytes) else UnsetNumber()


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return _object(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value
