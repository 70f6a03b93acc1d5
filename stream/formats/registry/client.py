"""Asks a schema registry with Confluent's API for schemas by their number.

    message ──► number ──► [SchemaRegistry.schema] ──► Schema (kept) ──► registry.decoder

The poll loop decodes, so no call waits longer than ``WAIT_S``: a thread asks the registry, and the caller
tries again later. A schema never changes, so each is asked for once, and a registry that is away matters only
for a new schema.

API: docs.confluent.io, Schema Registry API reference: GET /schemas/ids/{id}, GET /subjects/{s}/versions/{v}.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from driftgraph.stream.addresses import public_url
from driftgraph.stream.errors import SourceError
from driftgraph.stream.formats.event_rules import NotNowError

WAIT_S: Final = 0.5  # how long one call waits, since a poll must not be late
REQUEST_TIMEOUT_S: Final = 10.0  # of the thread that asks the registry
UNKNOWN_FOR_S: Final = 30.0  # a number that the registry does not know is asked for again after this
SCHEMAS_MAX: Final = 10_000  # schemas that are kept; a topic has a few
SCHEMA_BYTES_MAX: Final = 4 << 20  # of one schema, and of all its references together
REFERENCES_MAX: Final = 200  # of one schema, with the references of its references
_TRY_AGAIN: Final = (408, 425, 429)  # and 5xx
_NOT_FOUND: Final = range(40401, 40410)  # error_code of the registry; a wrong path has none of these


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """The address of the registry, and the login."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None  # None: the authorities that the system trusts


@dataclass(frozen=True, slots=True)
class Schema:
    """A registered schema. ``references`` are name → text, each behind the references that it needs."""

    kind: str  # AVRO, PROTOBUF or JSON
    text: str
    references: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""  # why it cannot be used, if the registry's answers tell that


class SchemaRegistry:
    """Asks a registry for schemas, and keeps them. One thread uses it."""

    def __init__(self, options: RegistryOptions) -> None:
        self._url = options.url.rstrip("/")
        self._shown = public_url(self._url)
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if options.username or options.password:
            login = base64.b64encode(f"{options.username}:{options.password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._tls = _trusted(options.ca_file) if urlsplit(options.url).scheme == "https" else None
        self._answers: dict[int, Future[Schema | None]] = {}
        self._unknown_since: dict[int, float] = {}

    def schema(self, number: int) -> Schema | None:
        """The schema of that number, or None if there is none.

        Raises:
            NotNowError: If the registry has not answered within ``WAIT_S``, or answers with an error that may
            pass.
            SourceError: If it refuses the login, or is no schema registry.
        """
        if time.monotonic() - self._unknown_since.get(number, time.monotonic()) > UNKNOWN_FOR_S:
            del self._answers[number], self._unknown_since[number]
        answer = self._answers.get(number)
        if answer is None:
            answer = self._ask(number)
        try:
            schema = answer.result(WAIT_S)
        except TimeoutError as error:
            raise NotNowError(
                f"the schema registry at {self._shown} has not answered within {WAIT_S:g} s"
            ) from error
        except (NotNowError, SourceError):
            del self._answers[number]  # the next call asks again
            raise
        if schema is None:
            self._unknown_since.setdefault(number, time.monotonic())
        return schema

    def _ask(self, number: int) -> Future[Schema | None]:
        while len(self._answers) >= SCHEMAS_MAX:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._unknown_since.pop(oldest, None)
        answer: Future[Schema | None] = Future()
        self._answers[number] = answer

        def run() -> None:
            try:
                answer.set_result(self._fetch(number))
            except BaseException as error:
                answer.set_exception(error)

        # a daemon: a registry that does not answer must not keep the process from ending
        threading.Thread(target=run, name=f"schema-{number}", daemon=True).start()
        return answer

    def _fetch(self, number: int) -> Schema | None:
        found = self._get(f"/schemas/ids/{number}")
        if found is None:
            return None
        kind, references = str(found.get("schemaType") or "AVRO").upper(), dict[str, str]()
        try:
            self._collect(found, references, depth=0)
        except (KeyError, TypeError, ValueError) as error:
            return Schema(kind, str(found["schema"]), fault=f"its references cannot be followed: {error!r}")
        return Schema(kind, str(found["schema"]), references)

    def _collect(self, schema: Mapping[str, Any], into: dict[str, str], *, depth: int) -> None:
        for reference in schema.get("references") or ():
            name = str(reference["name"])
            if name in into:
                continue
            if depth >= REFERENCES_MAX or len(into) >= REFERENCES_MAX:
                raise ValueError(f"there are more than {REFERENCES_MAX}")
            path = (
                f"/subjects/{quote(str(reference['subject']), safe='')}/versions/{int(reference['version'])}"
            )
            found = self._get(path)
            if found is None:
                raise ValueError(f"the registry has no {path}")
            self._collect(found, into, depth=depth + 1)
            into[name] = str(found["schema"])
            if sum(map(len, into.values())) > SCHEMA_BYTES_MAX:
                raise ValueError(f"they are longer than {SCHEMA_BYTES_MAX >> 20} MB")

    def _get(self, path: str) -> dict[str, Any] | None:
        """The answer; None if the registry answers that there is none."""
        request = urllib.request.Request(self._url + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S, context=self._tls) as answer:
                body = _object(answer.read(SCHEMA_BYTES_MAX + 1))
        except urllib.error.HTTPError as error:
            with error:
                refused = self._refused(error.code, _object(error.read(SCHEMA_BYTES_MAX)), path)
            if refused is None:
                return None
            raise refused from error
        except (OSError, urllib.error.URLError) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise NotNowError(f"the schema registry at {self._shown} cannot be reached ({why})") from error
        if body is None or "schema" not in body:
            raise self._stranger(f"{path} gave no schema")
        return body

    def _refused(self, status: int, body: dict[str, Any] | None, path: str) -> Exception | None:
        """The meaning of an HTTP error; None: the registry has no such schema."""
        if status == 404 and body is not None and body.get("error_code") in _NOT_FOUND:
            return None
        if status in _TRY_AGAIN or status >= 500:
            return NotNowError(f"the schema registry at {self._shown} answers {status}")
        if status in (401, 403):
            return SourceError(
                f"the schema registry at {self._shown} refuses us ({status}); "
                "check events.registry.username and password"
            )
        return self._stranger(f"{path} gave {status}")

    def _stranger(self, what: str) -> SourceError:
        return SourceError(
            f"{self._shown} does not answer like a schema registry ({what}); "
            "check the path in events.registry.url"
        )


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # includes the errors of ssl
        raise SourceError(
            f"events.registry.ca_file {ca_file} cannot be used ({error}); name a PEM file of certificates"
        ) from error


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
