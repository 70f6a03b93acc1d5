"""Questions to the running worker: what only the window and the served model know.

    HTTP port, recommend --why ──► [ask] ──► data_dir/status/worker.sock ──► [Answering], in the worker

A question and its answer are JSON objects, one of each for a connection. Only the account that the worker
runs under may connect, since an answer shows what a user did.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from driftgraph.stream.errors import DriftgraphError

NAME: Final = "worker.sock"
QUESTION_BYTES_MAX: Final = 8 << 20  # 1,000 ids of 1,024 characters, as JSON
SENT_WITHIN_S: Final = 5.0  # a question, once its connection is there
ANSWERED_WITHIN_S: Final = 10.0
WAITING_MAX: Final = 16

log = logging.getLogger(__name__)


class NoAnswerError(DriftgraphError):
    """The worker cannot tell. The message says why."""


def ask(data_dir: Path, question: Mapping[str, Any], within_s: float = ANSWERED_WITHIN_S) -> dict[str, Any]:
    """Ask the worker of a data_dir.

    Raises:
        NoAnswerError: No worker runs there, it does not answer in time, or it says why it cannot tell.
    """
    folder = data_dir / "status"
    try:
        with _address(folder) as address, socket.socket(socket.AF_UNIX) as line:
            line.settimeout(within_s)
            line.connect(address)
            line.sendall(json.dumps(question).encode())
            line.shutdown(socket.SHUT_WR)
            answer: dict[str, Any] = json.loads(b"".join(_chunks(line)))
    except TimeoutError as error:
        raise NoAnswerError(f"the worker has not answered within {within_s:g} s; ask again later") from error
    except PermissionError as error:
        raise NoAnswerError(
            f"this user may not ask the worker of {data_dir}: ask as the one it runs as"
        ) from error
    except (OSError, ValueError) as error:
        raise NoAnswerError(
            f"no worker of {data_dir} answers: driftgraph status says whether one runs; ask again then"
        ) from error
    if (why := answer.get("why_not")) is not None:
        raise NoAnswerError(str(why))
    return answer


class Answering(threading.Thread):
    """Answers one question after the other until it is stopped.

    Always true: no question ends the thread; what a client sends is read as JSON and nothing else.
    """

    def __init__(
        self,
        data_dir: Path,
        answer: Callable[[dict[str, Any]], dict[str, Any]],
        warm_up: Callable[[], None] = lambda: None,
    ) -> None:
        """``answer`` raises NoAnswerError for what it cannot tell; ``warm_up`` is called before the first."""
        self._warm_up = warm_up
        super().__init__(name="answering", daemon=True)
        self._folder, self._answer = data_dir / "status", answer
        self._line: socket.socket | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Listen; a data_dir that takes no socket is a line in the log."""
        self._warm_up()
        try:
            self._line = self._listening()
        except OSError as error:
            log.warning(
                "nobody can ask why an item is recommended: %s takes no socket (%s); put it on a local disk",
                self._folder, error.strerror or error,
            )  # fmt: skip
            return
        with self._line:
            while not self._stopped.is_set():
                with suppress(OSError):  # the client is gone, or the socket is closed by ``stop``
                    client, _ = self._line.accept()
                    with client:
                        self._one(client)

    def stop(self) -> None:
        """Take no more questions."""
        self._stopped.set()
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            (self._folder / NAME).unlink()

    def _listening(self) -> socket.socket:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / NAME).unlink(missing_ok=True)  # of a worker that was killed
        line = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(line.fileno(), 0o600)  # before the bind, so that it is never open to others
            with _address(self._folder) as address:
                line.bind(address)
            line.listen(WAITING_MAX)
        except OSError:
            line.close()
            raise
        return line

    def _one(self, client: socket.socket) -> None:
        client.settimeout(SENT_WITHIN_S)
        try:
            said = self._answer(json.loads(b"".join(_chunks(client))))
        except NoAnswerError as error:
            said = {"why_not": str(error)}
        except OSError:
            return
        except Exception as error:
            log.exception("a question to the worker")
            said = {"why_not": f"unexpected {type(error).__name__}, which the worker's log has"}
        client.sendall(json.dumps(said).encode())


@contextmanager
def answering(
    data_dir: Path,
    answer: Callable[[dict[str, Any]], dict[str, Any]],
    warm_up: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Answer questions in a thread meanwhile."""
    thread = Answering(data_dir, answer, warm_up)
    thread.start()
    try:
        yield
    finally:
        thread.stop()


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A short name of the socket: the kernel takes 107 bytes, and a data_dir may have more."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}/{NAME}"
    finally:
        os.close(number)


def _chunks(line: socket.socket) -> Iterator[bytes]:
    """What the other end sends until it has said all."""
    left = QUESTION_BYTES_MAX
    while chunk := line.recv(1 << 16):
        left -= len(chunk)
        if left < 0:
            raise ValueError(f"more than {QUESTION_BYTES_MAX:,} bytes")
        yield chunk
