"""What the loop waits with."""

from __future__ import annotations

import gevent


def backend() -> tuple[str, str]:
    """The library, `libev` or `libuv`, and by what of the kernel it waits: `epoll`, `select` and so on."""
    loop = gevent.get_hub().loop
    return type(loop).__module__.split(".")[1], str(loop.backend)
