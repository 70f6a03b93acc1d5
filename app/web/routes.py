"""The routes: who may ask what, and their description as an OpenAPI document.

GET, POST ──► [application] ──► Answers

What shows a user or changes something wants ``web.token`` in the header ``Authorization``, which no form and
no foreign page can send; without a configured token nobody may.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from driftgraph.app.console.output import finite
from driftgraph.app.web.answers import Answers
from driftgraph.app.web.metrics import CONTENT_TYPE, exposition
from driftgraph.app.web.reloading import NotReloadedError
from driftgraph.snapshots.generations.keys import NothingToRollBackError, StoreError

ID_CHARACTERS_MAX: Final = 1_024
TOP_MAX: Final = 1_000
WAITING_MAX: Final = 64  # requests that ask Redis, one after the other; more are told to come later
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """One route; ``private`` ones want the token."""

    method: str
    path: str
    name: str  # of the method of ``_Handlers``
    summary: str
    private: bool = False


ROUTES: Final = (
    Route("GET", "/livez", "live", "Whether the updater's loop moves; 503 if it stands still."),
    Route("GET", "/readyz", "ready", "Whether fresh vectors are served; 503 with the reasons if not."),
    Route("GET", "/metrics", "metrics", "All metrics, for Prometheus."),
    Route("GET", "/api/status", "status", "How far updater and worker are, and what is served."),
    Route("GET", "/api/generations", "generations", "The generations that can be served."),
    Route("POST", "/api/rollback", "rollback", "Go back to the generation before the served one.", True),
    Route("POST", "/api/reload", "reload", "Read the configuration again; what can change live does.", True),
    Route("GET", "/api/recommend/{user}", "recommend", "The best items for a user; ?top=20.", True),
    Route("GET", "/api/similar/{item}", "similar", "The items most similar to an item; ?top=20."),
    Route("GET", "/api/openapi.json", "openapi", "This document."),
)  # fmt: skip


def application(answers: Answers, token: Callable[[], str | None], version: str) -> web.Application:
    """The application with all routes; ``token`` says which one holds now."""
    handlers = _Handlers(answers, version)
    app = web.Application(middlewares=[_guarded(token)], client_max_size=1 << 16)
    for route in ROUTES:
        path = re.sub(
            r"\{(\w+)\}", r"{\1:[^/]+}", route.path
        )  # an id may have braces; its slashes are encoded
        app.router.add_route(route.method, path, getattr(handlers, route.name), name=route.name)
    return app


def openapi(version: str) -> dict[str, Any]:
    """The routes as an OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        names = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
        parameters: list[dict[str, Any]] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
        if names:
            limits = {"type": "integer", "minimum": 1, "maximum": TOP_MAX, "default": 20}
            parameters.append({"name": "top", "in": "query", "schema": limits})
        operation: dict[str, Any] = {
            "operationId": route.name,
            "summary": route.summary,
            "parameters": parameters,
            "responses": {"200": {"description": "The answer."}},
        }
        if route.private:
            operation["security"] = [{"bearer": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "driftgraph", "version": version},
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


class _Handlers:
    """One method for each route."""

    def __init__(self, answers: Answers, version: str) -> None:
        self._answers = answers
        self._version = version
        self._waiting = 0

    async def live(self, _: web.Request) -> web.Response:
        is_live, said = self._answers.live()
        return _json(said, status=200 if is_live else 503)

    async def ready(self, _: web.Request) -> web.Response:
        is_ready, said = self._answers.ready()
        return _json(said, status=200 if is_ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        body = exposition(self._answers.facts(), self._version)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def status(self, _: web.Request) -> web.Response:
        return _json(self._answers.status())

    async def generations(self, _: web.Request) -> web.Response:
        return _json(await self._ask(self._answers.generations))

    async def rollback(self, _: web.Request) -> web.Response:
        return _json(await self._ask(self._answers.rollback))

    async def reload(self, _: web.Request) -> web.Response:
        try:
            return _json(await asyncio.to_thread(self._answers.reload))
        except NotReloadedError as error:
            raise _refusal(409, str(error)) from error

    async def recommend(self, request: web.Request) -> web.Response:
        return _json(await self._ask(self._answers.recommend, _id(request, "user"), _top(request)))

    async def similar(self, request: web.Request) -> web.Response:
        return _json(await self._ask(self._answers.similar, _id(request, "item"), _top(request)))

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(openapi(self._version))

    async def _ask(self, ask: Callable[..., Any], *args: Any) -> Any:
        """Run what asks Redis in its thread; refuse at once if too many wait for it already."""
        if self._waiting >= WAITING_MAX:
            raise _refusal(503, f"{WAITING_MAX} requests wait for Redis already; ask again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._answers.asks, ask, *args)
        except NothingToRollBackError as error:
            raise _refusal(409, str(error)) from error
        except StoreError as error:
            raise _refusal(503, str(error)) from error
        finally:
            self._waiting -= 1


def _guarded(token: Callable[[], str | None]) -> Middleware:
    """The middleware: the token for private routes, errors as JSON, the same headers on every answer."""
    private = {route.name for route in ROUTES if route.private}

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer: web.StreamResponse
        try:
            if request.match_info.route.name in private:
                _check_token(request.headers.get("Authorization", ""), token())
            answer = await handler(request)
        except web.HTTPException as error:
            answer = error
            if error.content_type != "application/json":  # by aiohttp itself: no such route, too large, …
                answer = _json({"error": error.reason}, status=error.status)
        except Exception:
            log.exception("%s %s", request.method, request.match_info.route.name)
            answer = _refusal(500, "an unexpected error, which the log has")
        answer.headers.update(HEADERS)
        return answer

    return guarded


def _check_token(header: str, token: str | None) -> None:
    if token is None:
        raise _refusal(403, "this route shows a user or changes something: set web.token, and send it")
    scheme, _, given = header.partition(" ")
    sent = given.strip().encode(errors="surrogateescape")  # a header may have any byte
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent, token.encode()):
        error = _refusal(401, "send web.token in the header Authorization: Bearer …")
        error.headers["WWW-Authenticate"] = "Bearer"
        raise error


def _id(request: web.Request, name: str) -> str:
    text = request.match_info[name]
    if len(text) > ID_CHARACTERS_MAX:
        raise _refusal(400, f"the {name} has {len(text):,} characters; {ID_CHARACTERS_MAX:,} are the most")
    return text


def _top(request: web.Request) -> int:
    text = request.query.get("top", "20")
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 4 and 1 <= int(text) <= TOP_MAX):
        raise _refusal(400, f"top should be a number from 1 to {TOP_MAX:,}, got {text[:20]!r}")
    return int(text)


def _refusal(status: int, said: str) -> web.HTTPException:
    kinds: Mapping[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 403: web.HTTPForbidden, 404: web.HTTPNotFound,
        409: web.HTTPConflict, 500: web.HTTPInternalServerError, 503: web.HTTPServiceUnavailable,
    }  # fmt: skip
    kind = kinds.get(status, web.HTTPBadRequest)
    return kind(text=json.dumps({"error": said}), content_type="application/json")


def _json(value: Any, *, status: int = 200) -> web.Response:
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False)
    return web.Response(text=text, status=status, content_type="application/json")
