"""What is answered to bytes that are no HTTP request, as TLS on the plain port or a header with a null byte.

socket ──► Entrance ──► [RequestHandler] ──► routes, or the answer to what cannot be read

aiohttp's own answer repeats what the client sent, and its log has it as an error with a traceback.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from driftgraph.app.web.routes import HEADERS

UNREADABLE: Final = "this is no HTTP/1.1 request that can be read: look at its first line, headers and length"


class RequestHandler(web.RequestHandler):
    """The protocol of a connection, as aiohttp has it, but for its errors."""

    __slots__ = ()

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        # no log of requests: AppRunner gives None for it, too
        super().__init__(server, loop=loop, access_log=None, lingering_time=0)  # type: ignore[arg-type]

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Say what is wrong in the form of every error, and close the connection."""
        said = UNREADABLE
        if status >= 500:  # not the client's fault
            super().handle_error(request, status, exc, message)  # which the log gets
            said = "an unexpected error, which the log has"
        answer = web.json_response({"error": said}, status=status, headers=HEADERS)
        answer.force_close()
        return answer
