"""The errors that a person is meant to read.

    any part ──raises──► [DriftgraphError] ──► the command line: one sentence on stderr and an exit code

Everything else that escapes is a fault of driftgraph and is reported as one.
"""

from __future__ import annotations

from typing import ClassVar


class DriftgraphError(Exception):
    """Something outside of driftgraph is wrong, and a person can mend it.

    The message is one sentence that names the thing, its value and what to do.
    """

    exit_code: ClassVar[int] = 1


class ConfigError(DriftgraphError):
    """A key of the configuration is unknown, or its value is not one that driftgraph can work with."""

    exit_code: ClassVar[int] = 2


class SourceError(DriftgraphError):
    """A source cannot be read. The message says what, with which value, and what to do."""
