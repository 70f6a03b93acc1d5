"""The errors of the application, on the base that all parts share."""

from __future__ import annotations

from typing import ClassVar

from driftgraph.stream.errors import DriftgraphError

__all__ = ["ConfigError", "DriftgraphError"]


class ConfigError(DriftgraphError):
    """A key of the configuration is unknown, or its value is not one that driftgraph can work with."""

    exit_code: ClassVar[int] = 2
