"""Resonate: a real-time server that speaks the Pusher protocol.

``gunicorn -k resonate.worker resonate:app`` loads two names from here. They are resolved on first use, so that
importing the package costs nothing and pulls in neither gevent nor gunicorn.
"""

from typing import Any

from resonate.version import VERSION

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name == "worker":
        from resonate.server.worker import GunicornWorker

        return GunicornWorker
    if name == "app":
        from resonate.server.page import app

        return app
    raise AttributeError(f"module 'resonate' has no attribute {name!r}")
