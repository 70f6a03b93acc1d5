"""The routes: who may ask what, and how much.

GET, POST ──► [application] ──► Answers, PostedEvents

What shows a user or changes something wants ``web.token`` in the header ``Authorization``, which no form and
no foreign page can send; without a configured token nobody may.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler, Middleware

from driftgraph.app.console.output import finite
from driftgraph.app.console.worker_socket import NoAnswerError
from driftgraph.app.web.answers import Answers
from driftgraph.app.web.limits import Bucket, Connections, Line, TooManyError
from driftgraph.app.web.live_feed import LiveFeed
from driftgraph.app.web.metrics import CONTENT_TYPE, exposition
from driftgraph.app.web.openapi import JSON, LINES, ROUTES, TOP_MAX, Route, openapi
from driftgraph.app.web.page_files import INDEX, PageFiles
from driftgraph.app.web.posted_events import BODY_BYTES_MAX, NotPostedError, PostedEvents
from driftgraph.app.web.reloading import NotReloadedError
from driftgraph.snapshots.generations.keys import GoneError, NothingToRollBackError, StoreError
from driftgraph.snapshots.reading.where import UnknownAttributeError, Wanted, where_of
from driftgraph.stream.errors import ConfigError, DriftgraphError
from driftgraph.stream.kafka.batch_producer import NotDeliveredError

ID_CHARACTERS_MAX: Final = 1_024
ARGUMENTS_BYTES_MAX: Final = 1 << 12  # of a body that is no batch of events
BODY_WITHIN_S: Final = 10.0
REQUESTS_A_SECOND, REQUESTS_AT_ONCE = 500.0, 1_000
PRIVATE_A_SECOND, PRIVATE_AT_ONCE = 100.0, 200  # before the token is looked at: nobody tries many of them
WAITING_MAX: Final = 64  # requests that ask Redis, one after the other; more are told to come later
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

log = logging.getLogger(__name__)


def application(
    answers: Answers, posted: PostedEvents, connections: Connections, token: Callable[[], str | None],
    version: str,
) -> web.Application:  # fmt: skip
    """The application with all routes; ``token`` says which one holds now."""
    feed = LiveFeed(answers)
    handlers = _Handlers(answers, posted, feed, version)
    app = web.Application(middlewares=[_guarded(connections, token)], client_max_size=BODY_BYTES_MAX)
    for route in ROUTES:
        # an id may have braces; its slashes are encoded
        path = re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", route.path)
        app.router.add_route(
            route.method, path, getattr(handlers, route.name), name=route.name, expect_handler=_expected
        )

    async def close(_: web.Application) -> None:
        await asyncio.to_thread(handlers.close)

    app.on_cleanup.append(close)
    app.cleanup_ctx.append(feed.running)
    app.on_shutdown.append(feed.end)
    return app


class _Handlers:
    """One method for each route."""

    def __init__(self, answers: Answers, posted: PostedEvents, feed: LiveFeed, version: str) -> None:
        self._answers, self._posted, self._feed, self._version = answers, posted, feed, version
        self._files = PageFiles()
        self._redis = Line("Redis", WAITING_MAX)
        self._worker = Line("the worker", WAITING_MAX)
        self._letters = Line("dead letters", WAITING_MAX)
        self._kafka = Line("Kafka", WAITING_MAX)

    def close(self) -> None:
        """End the threads."""
        for line in (self._redis, self._worker, self._letters, self._kafka):
            line.close()
        self._posted.close()

    async def page(self, _: web.Request) -> web.Response:
        return self._file(INDEX)

    async def page_file(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["file"])

    def _file(self, name: str) -> web.Response:
        answer = self._files.answer(name)
        if answer is None:
            raise _refusal(404, f"the page has no file {name[:80]!r}")
        return answer

    async def stream(self, request: web.Request) -> web.StreamResponse:
        return await self._feed.listen(request)

    async def quality(self, _: web.Request) -> web.Response:
        return _json(self._answers.quality())

    async def drift(self, _: web.Request) -> web.Response:
        return _json(await self._redis.run(self._answers.drift))

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

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(openapi(self._version))

    async def generations(self, _: web.Request) -> web.Response:
        return _json(await self._redis.run(self._answers.generations))

    async def rollback(self, request: web.Request) -> web.Response:
        given = await _arguments(request, hold=bool)
        return _json(await self._redis.run(self._answers.rollback, hold=given.get("hold", False)))

    async def promote(self, request: web.Request) -> web.Response:
        given = await _arguments(request, generation=int, hold=bool)
        named = {"number": given.get("generation"), "hold": given.get("hold", False)}
        return _json(await self._redis.run(self._answers.promote, **named))

    async def reload(self, request: web.Request) -> web.Response:
        await _arguments(request)
        return _json(await asyncio.to_thread(self._answers.reload))

    async def recommend(self, request: web.Request) -> web.Response:
        user, is_why, where = _id(request, "user"), _yes_no(request, "why"), _where(request)
        try:
            found = await self._redis.run(self._answers.recommend, user, _top(request), where)
        except UnknownAttributeError as error:
            raise _refusal(400, str(error)) from error
        if is_why:
            found = await self._worker.run(self._answers.with_reasons, found)
        return _json(found)

    async def similar(self, request: web.Request) -> web.Response:
        return _json(await self._redis.run(self._answers.similar, _id(request, "item"), _top(request)))

    async def trending(self, request: web.Request) -> web.Response:
        return _json(await self._redis.run(self._answers.trending, _top(request)))

    async def recent(self, request: web.Request) -> web.Response:
        user = _id(request, "user")
        found = await self._worker.run(self._answers.recent, user, _top(request))
        if found is None:
            raise _refusal(404, f"the window has no event of user {user!r}")
        return _json(found)

    async def rejected(self, _: web.Request) -> web.Response:
        return _json(await self._letters.run(self._answers.rejected))

    async def retry(self, request: web.Request) -> web.Response:
        given = await _arguments(request, reason=str)
        return _json(await self._letters.run(self._answers.retry, given.get("reason")))

    async def post_events(self, request: web.Request) -> web.Response:
        _check_kind(request, JSON, LINES)
        body = await _body(request, BODY_BYTES_MAX)
        is_lines = request.content_type == LINES
        try:
            status, said = await self._kafka.run(self._posted.take, body, is_lines=is_lines)
        except NotPostedError as error:
            raise _refusal(400, str(error)) from error
        except NotDeliveredError as error:
            return _json({"error": str(error), "delivered": error.delivered, "of": error.count}, status=503)
        return _json(said, status=status)


def _guarded(connections: Connections, token: Callable[[], str | None]) -> Middleware:
    """The middleware: limits, the token for private routes, errors as JSON, the headers of every answer."""
    routes = {route.name: route for route in ROUTES}
    every, private = Bucket(REQUESTS_A_SECOND, REQUESTS_AT_ONCE), Bucket(PRIVATE_A_SECOND, PRIVATE_AT_ONCE)

    def check(request: web.Request, route: Route | None) -> None:
        if route is None or route.is_limited:
            every.take()
        if route is not None and route.private:
            private.take()
            _check_token(request.headers.get("Authorization", ""), token())

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer: web.StreamResponse
        name = request.match_info.route.name
        with connections.answering(request):
            try:
                check(request, routes.get(name or ""))
                answer = await handler(request)
            except Exception as error:
                answer = _failure(error, f"{request.method} {name}")
            for header, value in HEADERS.items():
                answer.headers.setdefault(header, value)  # the page's files have a policy of their own
            return answer

    return guarded


def _failure(error: Exception, asked: str) -> web.Response:
    """What is answered instead. Only errors that are meant for people are told."""
    if isinstance(error, web.HTTPException):
        if error.content_type == JSON:
            return error
        return _json({"error": error.reason}, status=error.status)  # by aiohttp: no such route, too large, …
    if isinstance(error, TooManyError):
        answer = _refusal(429, f"{error}; come again later")
        answer.headers["Retry-After"] = str(max(1, math.ceil(error.after_s)))
        return answer
    if isinstance(error, NothingToRollBackError | GoneError | ConfigError | NotReloadedError):
        return _refusal(409, str(error))
    if isinstance(error, DriftgraphError | StoreError | NoAnswerError):
        return _refusal(503, str(error))
    log.error("%s", asked, exc_info=error)
    return _refusal(500, "an unexpected error, which the log has")


async def _expected(request: web.Request) -> None:
    """Answer the header ``Expect``, ahead of the middleware; aiohttp's own refusal repeats it."""
    if request.version < HttpVersion11:
        return
    if request.headers["Expect"].lower() != "100-continue":
        error = _refusal(417, "Expect may be 100-continue alone")
        error.headers.update(HEADERS)
        raise error
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # of the answer that follows


def _check_token(header: str, token: str | None) -> None:
    if token is None:
        raise _refusal(403, "this route shows a user or changes something: set web.token, and send it")
    scheme, _, given = header.partition(" ")
    sent = given.strip().encode(errors="surrogateescape")  # a header may have any byte
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent, token.encode()):
        error = _refusal(401, "send web.token in the header Authorization: Bearer …")
        error.headers["WWW-Authenticate"] = "Bearer"
        raise error


def _check_kind(request: web.Request, *kinds: str) -> None:
    """A form of a foreign page can send neither of these types without asking first."""
    if request.content_type not in kinds:
        raise _refusal(415, f"send the body with Content-Type: {' or '.join(kinds)}")


async def _body(request: web.Request, bytes_max: int) -> bytes:
    if (request.content_length or 0) > bytes_max:
        raise _refusal(413, f"the body may have {bytes_max:,} bytes")
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            body = await request.read()
    except TimeoutError:
        raise _refusal(408, f"the body has not come within {BODY_WITHIN_S:g} s") from None
    if len(body) > bytes_max:
        raise _refusal(413, f"the body may have {bytes_max:,} bytes")
    return body


async def _arguments(request: web.Request, **kinds: type) -> dict[str, Any]:
    """The fields of a body that is a JSON object, each of its type; an empty body has none."""
    if not (body := await _body(request, ARGUMENTS_BYTES_MAX)):
        return {}
    _check_kind(request, JSON)
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise _refusal(400, "the body should be a JSON object")
    for name, value in given.items():
        if name not in kinds:
            raise _refusal(400, f"there is no field {name[:40]!r} here, only {', '.join(kinds)}")
        if type(value) is not kinds[name]:
            raise _refusal(400, f"{name} should be of type {kinds[name].__name__}")
    if not 0 < given.get("generation", 1) < 1 << 53:
        raise _refusal(400, "generation should be a number from 1 on")
    return given


def _id(request: web.Request, name: str) -> str:
    text = request.match_info[name]
    if len(text) > ID_CHARACTERS_MAX:
        raise _refusal(400, f"the {name} has {len(text):,} characters; {ID_CHARACTERS_MAX:,} are the most")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refusal(400, f"the {name} is no UTF-8") from None
    return text


def _top(request: web.Request) -> int:
    text = request.query.get("top", "20")
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 4 and 1 <= int(text) <= TOP_MAX):
        raise _refusal(400, f"top should be a number from 1 to {TOP_MAX:,}, got {text[:20]!r}")
    return int(text)


def _where(request: web.Request) -> dict[str, Wanted]:
    try:
        return where_of(request.query.get("where", "{}"))
    except ValueError as error:
        raise _refusal(400, str(error)) from None


def _yes_no(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise _refusal(400, f"{name} should be true or false, got {text[:20]!r}")
    return text == "true"


def _refusal(status: int, said: str) -> web.HTTPException:
    kinds: Mapping[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 403: web.HTTPForbidden, 404: web.HTTPNotFound,
        408: web.HTTPRequestTimeout, 409: web.HTTPConflict, 415: web.HTTPUnsupportedMediaType,
        417: web.HTTPExpectationFailed,
        429: web.HTTPTooManyRequests, 500: web.HTTPInternalServerError, 503: web.HTTPServiceUnavailable,
    }  # fmt: skip
    text = json.dumps({"error": said})
    if status == 413:
        return web.HTTPRequestEntityTooLarge(max_size=0, actual_size=0, text=text, content_type=JSON)
    return kinds[status](text=text, content_type=JSON)


def _json(value: Any, *, status: int = 200) -> web.Response:
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False)
    return web.Response(text=text, status=status, content_type="application/json")
