"""A port between driftgraph and Redis that can be closed, or lead to another server."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self


class Door:
    """Hands on every connection to a port of 127.0.0.1, both ways."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    def lead_to(self, target: int) -> None:
        """Lead to another port from now on; connections to the former one end."""
        self._target = target
        self._end_connections()

    def close(self) -> None:
        """Refuse connections, and end those that there are."""
        with contextlib.suppress(OSError):  # wakes the thread that waits for a connection
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_connections()

    def open(self) -> None:
        """Take connections again."""
        self._listener = self._listen(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._hand_on, args=(listener.accept()[0],), daemon=True).start()

    def _hand_on(self, client: socket.socket) -> None:
        """Until one side ends the connection."""
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            other = {client: server, server: client}
            with self._lock:
                self._open |= {client, server}
            try:
                while True:
                    for one in select.select([client, server], [], [])[0]:
                        if not (data := one.recv(1 << 16)):
                            return
                        other[one].sendall(data)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _end_connections(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):  # the other side has ended it
                    one.shutdown(socket.SHUT_RDWR)
