"""What the start page may do: name the apps, and publish to its own channels."""

from __future__ import annotations

from resonate.errors import HttpError
from resonate.messages import Publish
from resonate.pusher import events as wire
from resonate.server.context import Context


class WorkerConsole:
    """The page's way into the worker (resonate.server.page.Console)."""

    def __init__(self, context: Context, enabled: bool) -> None:
        self._context = context
        self._enabled = enabled

    @property
    def prefix(self) -> str:
        """The path prefix of every route."""
        return self._context.settings.server.path

    def keys(self) -> list[str]:
        """The public keys of the apps; none where the console is switched off."""
        return [app.key for app in self._context.settings.apps] if self._enabled else []

    def publish(self, key: str, channel: str, event: str, data: str) -> None:
        """Publish as the REST API does. Raises HttpError for an unknown key."""
        app = self._context.api.app(key)
        if app is None:
            raise HttpError(404, "No app has this key.")
        self._context.link.send(Publish(0, app.app_id, channel, wire.published(event, channel, data), None, 0))
