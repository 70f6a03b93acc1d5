"""Who acts, and what ``rollback`` and ``promote`` print."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def operator() -> str:
    """Who calls the command, as far as the machine knows: ``user@host``."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container without a user database
        return socket.gethostname()


def print_chosen(told: Mapping[str, Any], out: Console) -> None:
    """Say what is served now."""
    held = ", and held until driftgraph promote" if told["held"] else ""
    out.print(f"generation {told['generation']} is served now{held}", highlight=False)
