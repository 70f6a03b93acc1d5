"""The process that serves HTTP: beside the updater, so that a slow client never delays an event.

run ──► WebProcess ──► [main] ──► routes
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Final

import msgspec
from aiohttp import web

from driftgraph.app.config.settings import Settings
from driftgraph.app.console import logs
from driftgraph.app.console.status_files import write_json
from driftgraph.app.web.answers import Answers
from driftgraph.app.web.limits import Connections, Entrance
from driftgraph.app.web.live_settings import LiveSettings
from driftgraph.app.web.posted_events import PostedEvents
from driftgraph.app.web.routes import application
from driftgraph.stream.time.clock import SystemClock

PARENT_EVERY_S: Final = 0.5  # it is seen that the updater was killed
CONNECTIONS_WAITING_MAX: Final = 128
ENDS_WITHIN_S: Final = 2.0

log = logging.getLogger(__name__)


def main(settings: Settings, updater_pid: int, updater: Connection) -> None:
    """Serve until SIGTERM, or until the updater is gone; take over the ``LiveSettings`` that it sends.

    Raises:
        SystemExit: If the address cannot be listened on; status/web.json says why.
    """
    logs.set_up(settings, "web")
    threading.Thread(target=_end_with, args=(updater_pid,), name="parent", daemon=True).start()
    asyncio.run(_serve(settings, updater_pid, updater))


async def _serve(settings: Settings, updater_pid: int, updater: Connection) -> None:
    address, live = settings.web.address(), LiveSettings.of(settings)
    assert address is not None, "nobody starts a server that is off"
    clock, connections = SystemClock(), Connections()
    answers, posted = Answers(settings, clock, updater_pid), PostedEvents(settings, clock)
    runner = web.AppRunner(
        application(answers, posted, connections, lambda: live.token, version("driftgraph")),
        access_log=None,
        shutdown_timeout=ENDS_WITHIN_S,
        lingering_time=0,
    )
    await runner.setup()
    try:
        server, loop = runner.server, asyncio.get_running_loop()
        assert server is not None
        try:
            listening = await loop.create_server(
                lambda: Entrance(server), *address, backlog=CONNECTIONS_WAITING_MAX
            )
        except OSError as error:
            said = f"cannot listen on web.listen = {settings.web.listen}: {error.strerror or error}"
            _tell(settings, failure=said)
            raise SystemExit(1) from None
        host, port = listening.sockets[0].getsockname()[:2]
        _tell(settings, host=host, port=port)
        answers.start()
        ended = asyncio.Event()

        def take() -> None:
            nonlocal live
            try:
                live = msgspec.json.decode(updater.recv_bytes(), type=LiveSettings)
            except (EOFError, OSError):  # the updater is gone, which _end_with sees
                loop.remove_reader(updater.fileno())
                return
            logs.set_up(live.into(settings), "web")

        loop.add_reader(updater.fileno(), take)
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        sweeping = asyncio.create_task(connections.sweep(server))
        await ended.wait()
        sweeping.cancel()
        listening.close()
    finally:
        await runner.cleanup()
        answers.close()


def _tell(settings: Settings, **facts: object) -> None:
    """Where it is served, or why not: for whoever looks for the port, and for the log of the updater."""
    state = "failed" if "failure" in facts else "running"
    write_json(settings.data_dir / "status" / "web.json", {"pid": os.getpid(), "state": state, **facts})


def _end_with(updater_pid: int) -> None:
    """End this process with the updater's, also if that was killed."""
    while os.getppid() == updater_pid:
        time.sleep(PARENT_EVERY_S)
    os._exit(0)
