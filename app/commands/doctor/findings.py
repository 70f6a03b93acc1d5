"""The results of ``driftgraph doctor``: each check and its state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check; ``detail`` says what was found and, if it is not ok, what to do."""

    name: str
    state: State
    detail: str
