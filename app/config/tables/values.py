"""What single values of the configuration may be, where no type says it: names, folders, addresses, times.

Each function takes a value as it is written and gives it back as it is used, or raises a ValueError whose
words go behind key and value: ``driftgraph.toml: kafka.shard = "2/2": should be …``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from driftgraph.stream.addresses import REDIS_SCHEMES, fault_of, looks_like_address
from driftgraph.stream.time.clock import FLOOR_MS_MIN
from driftgraph.stream.time.durations import Duration

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it becomes part of file names
NAMESPACE = re.compile(rf"{NAME.pattern}|\{{{NAME.pattern}\}}")  # braces: for a Redis Cluster
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SHARD = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)
SERVICE = re.compile(r"/[A-Za-z0-9._-]+(/\d{0,5})?", re.ASCII)  # that Sentinels watch, and a database
DATABASE = re.compile(r"(/\d{0,5})?", re.ASCII)  # of a Redis server, in its address
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+(%\w+)?\]")
PORT_MAX = 65_535
FLOOR_MIN = datetime.fromtimestamp(-(-FLOOR_MS_MIN // 1000), UTC)


def name(value: str) -> str:
    """Of an updater."""
    if NAME.fullmatch(value) is None:
        raise ValueError(
            "should be 1 to 64 letters, digits, '-', '_' or '.', and begin with a letter or digit"
        )
    return value


def namespace(value: str) -> str:
    """First part of every key in Redis."""
    if NAMESPACE.fullmatch(value) is None:
        raise ValueError(
            "should be 1 to 64 letters, digits, '-', '_' or '.', and begin with a letter or digit, such as "
            "shop; or all of it in braces, such as {shop}, for a Redis Cluster"
        )
    return value


def feast_project(value: str) -> str:
    """Of Feast, whose rule this is."""
    if PROJECT.fullmatch(value) is None:
        raise ValueError("should be a project's name of Feast: letters, digits, '-' and '_', such as shop")
    return value


def shard(value: str) -> str:
    """Which share of the partitions."""
    match = SHARD.fullmatch(value)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError('should be "i/n" with i from 0 to n - 1, such as "0/1"')
    return value


def start(value: str) -> str:
    """Where a first start reads from."""
    if value not in ("last span", "earliest", "latest"):
        try:
            Duration.parse(value)
        except ValueError:
            raise ValueError(
                'should be "last span", "earliest", "latest" or a duration such as "6h"'
            ) from None
    return value


def redis_url(value: str) -> str:
    """Address of a Redis server, of Sentinels or of a Cluster."""
    if (fault := fault_of(value, REDIS_SCHEMES)) is not None:
        raise ValueError(fault)
    parts = urlsplit(value)
    if parts.scheme.endswith("+sentinel"):
        if not SERVICE.fullmatch(parts.path):
            raise ValueError(
                "should end with the name of the service, as redis+sentinel://host:26379,host/mymaster, "
                "and may have the number of a database behind it, as /mymaster/0"
            )
    elif parts.scheme.endswith("+cluster"):
        if parts.path.strip("/"):
            raise ValueError("should end with its hosts: a Cluster has no databases with numbers")
    elif parts.scheme != "unix" and not DATABASE.fullmatch(parts.path):
        raise ValueError("should end with its host, or with the number of a database such as /0")
    return value


def brokers(value: str) -> str:
    """Brokers of Kafka, ``host:port,host:port``; a host without a port has Kafka's 9092."""
    if "@" in value or "://" in value:
        raise ValueError(
            "should be host:port,host:port; security.protocol and user go into kafka.options, the password "
            "into kafka.secrets"
        )
    parts = [part.strip() for part in value.split(",")]
    for number, part in enumerate(parts, 1):
        if (fault := _broker_fault(part)) is not None:
            which = f"part {number} of {len(parts)}, {part!r}, " if len(parts) > 1 else ""
            raise ValueError(f"should be host:port,host:port: {which}{fault}")
    return value


def _broker_fault(part: str) -> str | None:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        host, colon, port = part, "", ""
    if not part:
        return "is empty"
    if ":" in host and not host.startswith("["):
        return (
            "has several colons: put a comma between brokers, and an IPv6 address in brackets as [::1]:9092"
        )
    if HOST.fullmatch(host) is None or (not colon and host.isdecimal()):
        return "has no host" if not host or (not colon and host.isdecimal()) else "has a host that is no name"
    if colon and not (port.isascii() and port.isdecimal() and 1 <= int(port[:9]) <= PORT_MAX):
        return f"has a port that is no number from 1 to {PORT_MAX}"
    return None


def floor(value: object) -> object:
    """The oldest moment of an event: a date and time with a zone, as text or as TOML's own."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError('should be a date and time with a zone, such as "2005-01-01T00:00:00Z"')
    if moment < FLOOR_MIN:
        raise ValueError(
            f"should be {FLOOR_MIN.isoformat()} or later: older times in seconds look like others"
        )
    return moment


def properties(value: object) -> object:
    """Properties of librdkafka; a dot in a name that is not quoted makes a table of TOML inside it."""
    for key, below in value.items() if isinstance(value, Mapping) else ():
        if isinstance(below, Mapping):
            whole = _property_in(str(key), below)
            raise ValueError(f'a name with a dot stands in quotes: write "{whole}" = …')  # noqa: TRY004  pydantic takes this one
    return value


def _property_in(key: str, below: Mapping[Any, Any]) -> str:
    first = next(iter(below), "…")
    inner = below.get(first)
    return _property_in(f"{key}.{first}", inner) if isinstance(inner, Mapping) else f"{key}.{first}"


def dotted(key: str, below: Mapping[Any, Any]) -> str:
    """The name that was meant, of one whose dots made tables inside each other."""
    first = next(iter(below), None)
    inner = None if first is None else below[first]
    return dotted(f"{key}.{first}", inner) if isinstance(inner, Mapping) else key


def _written_path(value: object) -> object:
    text = str(value) if isinstance(value, str | Path) else ""
    if looks_like_address(text):
        raise ValueError("is an address and no folder of this machine; give a path such as ./var or /data")
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; give a path such as ./var")
    if "\0" in text:
        raise ValueError("has a zero byte in it")
    return value


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError("has a ~ for a home folder that does not exist; write the whole path") from None


NameField = Annotated[str, AfterValidator(name)]
PathField = Annotated[Path, BeforeValidator(_written_path), AfterValidator(_expanded)]
