"""The files of the page: what a browser gets at ``/`` and under ``/page``.

app/web/page/ ──► [PageFiles] ──► GET /, GET /page/{file}

They are as they are in the folder: nothing is built, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).with_name("page")
INDEX: Final = "index.html"
KINDS: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# uPlot sets styles of elements by script, which style-src does not forbid
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageFiles:
    """The files by name, in memory: no request reads a path of the disk."""

    def __init__(self) -> None:
        self._files = {
            path.name: (path.read_bytes(), KINDS[path.suffix])
            for path in FOLDER.iterdir()
            if path.suffix in KINDS
        }

    def answer(self, name: str) -> web.Response | None:
        """A file; None if there is none of this name."""
        found = self._files.get(name)
        if found is None:
            return None
        body, kind = found
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)
