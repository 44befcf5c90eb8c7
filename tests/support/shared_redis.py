"""One Redis for all servers of this process that want several hosts, until the process ends."""

from __future__ import annotations

import atexit
import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.support.redis import RedisServer

_NUMBERS: Final = itertools.count(1)


def scaling() -> dict[str, Any]:
    """Settings of servers that belong together, and to nobody else on the same Redis."""
    redis = _running()
    where = {"host": redis.address, "port": redis.port}
    return {"enabled": True, "channel": f"test{next(_NUMBERS)}", "server": where}


@functools.cache
def _running() -> RedisServer:
    directory = tempfile.TemporaryDirectory(prefix="redis-")
    redis = RedisServer(Path(directory.name)).start()
    atexit.register(directory.cleanup)
    atexit.register(redis.stop)  # before that
    return redis
