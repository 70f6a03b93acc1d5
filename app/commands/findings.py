"""What ``driftgraph doctor`` finds: a check, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; ``detail`` says what was found and, if it is not ok, what to do."""

    name: str
    state: State
    detail: str
