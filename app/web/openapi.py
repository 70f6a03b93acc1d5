"""Every route, and their description as an OpenAPI document.

[ROUTES] ──► routes.application ──► GET /api/openapi.json ──► [openapi]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TOP_MAX: Final = 1_000

Schema = Mapping[str, Any]
TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
YES_NO: Final[Schema] = {"type": "boolean"}
ANY: Final[Schema] = {"type": "object"}


def list_of(schema: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": schema}


def record(*required: str, **fields: Schema) -> Schema:
    """An object; fields that are not ``required`` may be missing."""
    made: dict[str, Any] = {"type": "object", "properties": fields}
    return made | {"required": list(required)} if required else made


SCORED: Final = record("item", "score", item=TEXT, score=NUMBER)
SHARES: Final[Schema] = {"type": "object", "additionalProperties": NUMBER}
EVENT: Final = record("item", "behavior", "event_ms", item=TEXT, behavior=TEXT, event_ms=WHOLE)
WAY: Final = record(
    "item", "behavior", "event_ms", "users", "share",
    item=TEXT, behavior=TEXT, event_ms=WHOLE, users=WHOLE, share=NUMBER,
)  # fmt: skip
WHY: Final = record(
    "parts", "because", "says",
    parts={"type": "object", "additionalProperties": NUMBER}, because=list_of(WAY), says=TEXT,
)  # fmt: skip
BEST: Final = record("item", "score", item=TEXT, score=NUMBER, why=WHY)
LETTER: Final = record(
    reason=TEXT, detail=TEXT, event=TEXT, topic={"type": ["string", "null"]},
    partition={"type": ["integer", "null"]}, offset={"type": ["integer", "null"]}, at_ms=WHOLE,
)  # fmt: skip
TROUBLES: Final = list_of(record(code=TEXT, said=TEXT, remedy=TEXT, keeps_from_serving=YES_NO))
CHOSEN: Final = record("generation", "was", "held", generation=WHOLE, was=WHOLE, held=YES_NO, at_ms=WHOLE)
ERROR: Final = record("error", error=TEXT)
HOLD: Final = {**YES_NO, "description": "Publish nothing else until promote is called without it."}
WHAT: Final[Mapping[int, str]] = {
    400: "The request is wrong.", 401: "The token is missing or wrong.", 403: "No web.token is configured.",
    404: "There is no such thing.", 408: "The body has not come in time.", 409: "That cannot be done now.",
    413: "The body is too large.", 415: "The body has another Content-Type.",
    429: "Too many requests; Retry-After has seconds.", 503: "Another system is away, or it is not so.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """One route; ``private`` ones want the token."""

    method: str
    path: str
    name: str  # of the method of ``routes._Handlers``
    summary: str
    answer: Schema
    private: bool = False
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)  # by Content-Type
    statuses: tuple[int, ...] = ()  # beside 200 and those that every route of its kind has

    @property
    def is_limited(self) -> bool:
        """Probes and Prometheus are never told to come later."""
        return self.path.startswith("/api/")


TOP: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": TOP_MAX, "default": 20}
WHERE: Final[Schema] = {
    "type": "string",
    "description": "A JSON object: by attribute of items a text, several texts, or the range [low, high] of "
    "numbers, null for open.",
    "examples": ['{"category": ["shoes", "boots"], "price": [null, 50]}'],
}
JSON: Final = "application/json"
KINDS: Final = {
    "metrics": "text/plain",
    "page": "text/html",
    "page_file": "*/*",
    "stream": "text/event-stream",
}
LINES: Final = "application/x-ndjson"

ROUTES: Final = (
    Route("GET", "/", "page", "The page for people.", TEXT),
    Route("GET", "/page/{file}", "page_file", "What the page loads.", TEXT, statuses=(404,)),
    Route("GET", "/livez", "live", "Whether the updater's loop moves; 503 if it stands still.",
          record("live", live=YES_NO), statuses=(503,)),
    Route("GET", "/readyz", "ready", "Whether fresh vectors are served; 503 with the reasons if not.",
          record("ready", "troubles", ready=YES_NO, troubles=TROUBLES), statuses=(503,)),
    Route("GET", "/metrics", "metrics", "All metrics, for Prometheus.", TEXT),
    Route("GET", "/api/status", "status", "How far updater and worker are, and what is served.", ANY),
    Route("GET", "/api/stream", "stream", "Server-sent events: the last hour, then each second the status.",
          TEXT),
    Route("GET", "/api/quality", "quality", "The quality of every generation that was served, oldest first.",
          list_of(record(generation=WHOLE, model_version=WHOLE, published_ms=WHOLE, evaluated_events=WHOLE,
                         recall_at_20=SHARES, shares=SHARES))),
    Route("GET", "/api/drift", "drift", "Who and what moved by the fit of the served generation.",
          record("generation", generation=WHOLE, drift={"type": ["object", "null"]}), private=True,
          statuses=(503,)),
    Route("GET", "/api/generations", "generations", "The generations that can be served.",
          list_of(record(generation=WHOLE, current=YES_NO, manifest=ANY)), statuses=(503,)),
    Route("POST", "/api/rollback", "rollback", "Go back to the generation before the served one.",
          CHOSEN, private=True, body={JSON: record(hold=HOLD)}, statuses=(409, 503)),
    Route("POST", "/api/promote", "promote", "Serve a kept generation, without a number the newest.",
          CHOSEN, private=True, body={JSON: record(generation=WHOLE, hold=HOLD)}, statuses=(409, 503)),
    Route("POST", "/api/reload", "reload", "Read the configuration again; what can change live does.",
          ANY, private=True, body={JSON: record()}, statuses=(409,)),
    Route("POST", "/api/events", "post_events", "Put a batch of events on the topic; 200 once it is safe.",
          record("delivered", "ignored", delivered=WHOLE, ignored=WHOLE), private=True,
          body={JSON: list_of(ANY), LINES: TEXT}, statuses=(409, 503)),
    Route("GET", "/api/events/recent/{user}", "recent", "The newest events of a user in the window.",
          record("user", "events", user=TEXT, events=list_of(EVENT)), private=True, query={"top": TOP},
          statuses=(404, 503)),
    Route("GET", "/api/recommend/{user}", "recommend", "The best items for a user; ?why=true tells why.",
          record("user", "generation", "source", "event_ms", "items", user=TEXT, generation=WHOLE,
                 source=TEXT, event_ms=WHOLE, items=list_of(BEST),
                 why_not=TEXT),
          private=True, statuses=(503,),
          query={"top": TOP, "why": {"type": "boolean", "default": False}, "where": WHERE}),
    Route("GET", "/api/similar/{item}", "similar", "The items most similar to an item.",
          record("item", "generation", "source", "items", item=TEXT, generation=WHOLE, source=TEXT,
                 items=list_of(SCORED)), query={"top": TOP}, statuses=(503,)),
    Route("GET", "/api/trending", "trending", "What rises over all behaviors.",
          record("items", "generation", items=list_of(SCORED), generation=WHOLE), query={"top": TOP},
          statuses=(503,)),
    Route("GET", "/api/rejected", "rejected", "What was rejected since the updater's start, with letters.",
          record("total", "reasons", "examples", total=WHOLE,
                 reasons={"type": "object", "additionalProperties": WHOLE},
                 examples=list_of(LETTER),
                 examples_why_not=TEXT), private=True),
    Route("POST", "/api/rejected/retry", "retry", "Send dead letters back to their topic, the oldest first.",
          record("retried", retried=WHOLE), private=True, body={JSON: record(reason=TEXT)}, statuses=(503,)),
    Route("GET", "/api/openapi.json", "openapi", "This document.", ANY),
)  # fmt: skip


def openapi(version: str) -> dict[str, Any]:
    """The routes as an OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "driftgraph", "version": version},
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def statuses_of(route: Route) -> list[int]:
    """All that a route may answer but 200."""
    found = set(route.statuses)
    found |= {400} if "{" in route.path or route.query or route.body else set()
    found |= {401, 403} if route.private else set()
    found |= {408, 413, 415} if route.body else set()
    found |= {429} if route.is_limited else set()
    return sorted(found)


def _operation(route: Route) -> dict[str, Any]:
    names = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": TEXT} for name in names
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()]
    kind = KINDS.get(route.name, JSON)
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer.", "content": {kind: {"schema": route.answer}}},
            **{
                str(status): {"description": WHAT[status], "content": {JSON: {"schema": ERROR}}}
                for status in statuses_of(route)
            },
        },
    }
    if route.body:
        content = {kind: {"schema": schema} for kind, schema in route.body.items()}
        operation["requestBody"] = {"content": content, "required": route.name == "post_events"}
    if route.private:
        operation["security"] = [{"bearer": []}]
    return operation
