"""The table ``[web]`` of the configuration: the HTTP port of ``driftgraph run``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from driftgraph.app.config.tables.sections import ENV_PREFIX, Section

OFF = "off"
_LISTEN = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(\d{1,5})")


def _listen(value: str) -> str:
    if value == OFF:
        return value
    match = _LISTEN.fullmatch(value)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f"should be host:port, such as 127.0.0.1:8350, or {OFF}")
    return value


def _token(value: SecretStr) -> SecretStr:
    """A token that is empty would let everybody in."""
    if not value.get_secret_value().strip():
        raise ValueError("is empty, and would let everybody in: give it some letters, or take it out")
    return value


class WebSettings(Section):
    """Where health, metrics and answers are served over HTTP."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="127.0.0.1:8350",
        description="Where driftgraph run serves its page at /, and /livez, /readyz, /metrics and /api; off: "
        "nowhere. Port 0 takes a free one, which status/web.json in data_dir names.",
    )
    token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        default=None,
        description="What a client sends as Authorization: Bearer … for what shows a user or changes "
        f"something; not set: nobody may. Better set in the environment: {ENV_PREFIX}WEB__TOKEN.",
        examples=["…"],
    )

    def address(self) -> tuple[str, int] | None:
        """Host and port; None if nothing is served."""
        if self.listen == OFF:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
