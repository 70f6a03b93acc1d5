"""A site's own ``normalize``, for tests: it does what the record's value says."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from driftgraph.stream.faust.normalize import SiteRecord

NOT_A_FUNCTION = 42


def normalize(record: SiteRecord) -> Any:
    if record.value == b"die":
        os._exit(3)
    if record.value == b"hang":
        time.sleep(60)
    if record.value == b"raise":
        raise ValueError("no such field")
    if record.value == b"pid":
        return event("u1", str(os.getpid()))
    return msgspec.json.decode(record.value)


def event(user: object, item: object, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "behavior": "click", "ts": 1_783_000_000_000, **more}
