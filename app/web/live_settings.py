"""The settings of the HTTP process that a reload changes while it serves.

Reload ──► WebProcess ──► a pipe ──► [LiveSettings] ──► server
"""

from __future__ import annotations

import msgspec
from pydantic import SecretStr

from driftgraph.app.config.settings import Settings


class LiveSettings(msgspec.Struct):
    """The settings that the updater may change while we serve."""

    token: str | None
    log_level: str

    @classmethod
    def of(cls, settings: Settings) -> LiveSettings:
        """Those of a configuration."""
        token = settings.web.token
        return cls(None if token is None else token.get_secret_value(), settings.log.level)

    def into(self, settings: Settings) -> Settings:
        """A configuration with these."""
        token = None if self.token is None else SecretStr(self.token)
        web_, log_ = settings.web.model_copy(update={"token": token}), settings.log
        return settings.model_copy(
            update={"web": web_, "log": log_.model_copy(update={"level": self.log_level})}
        )
