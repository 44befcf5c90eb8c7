"""The one table of routes, and what stands before every endpoint: the app, the signature, the method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

from resonate.api import endpoints
from resonate.api.authentication import parameters, verify
from resonate.api.endpoints import Call, Endpoint
from resonate.errors import HttpError
from resonate.http import Request
from resonate.http.values import TEXT, Response
from resonate.settings import App, Settings

Handler = Callable[[Call], Endpoint]

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("POST", "/events", endpoints.publish),
    ("POST", "/batch_events", endpoints.publish_batch),
    ("GET", "/channels", endpoints.channels),
    ("GET", "/channels/{}", endpoints.channel),
    ("GET", "/channels/{}/users", endpoints.users),
    ("GET", "/connections", endpoints.connections),
    ("POST", "/users/{}/terminate_connections", endpoints.terminate),
    ("POST", "/users/{}/events", endpoints.publish_to_user),
)

#: The official Python library leaves /apps/{id} out here; the app is found by its key then.
_WITHOUT_APP: Final = re.compile(r"/users/[^/]+/terminate_connections")

NOT_FOUND: Final = Response(404, b"Not found.", TEXT)


def _compile(template: str) -> re.Pattern[str]:
    return re.compile(template.replace("{}", "([^/]+)"))


_TABLE: Final = tuple((_compile(template), method, handler) for method, template, handler in ROUTES)
_APP_PATH: Final = re.compile(r"/apps/([^/]+)(/.*)")


def claims(path: str) -> bool:
    """Whether a path, less the prefix, belongs to the REST API (also when there is no such route)."""
    return path.lstrip("/").startswith("apps/") or _WITHOUT_APP.fullmatch(path) is not None


class Api:
    """Routes requests to endpoints. `refs` numbers what is asked of shards."""

    def __init__(self, settings: Settings, refs: Iterator[int]) -> None:
        self._by_id = {app.app_id: app for app in settings.apps}
        self._by_key = {app.key: app for app in settings.apps}
        self._grace = settings.server.auth_timestamp_grace
        self._cache_ttl = settings.server.cache_ttl
        self._refs = refs

    def open(self, request: Request, path: str, now: float) -> Endpoint | Response:
        """Start the endpoint of a request; a Response when the path is unknown. Raises HttpError for what is refused.

        `path` is the raw path less the prefix, `now` is Unix time.
        """
        query = parameters(request.query)
        if path.startswith("//"):  # Reverb routes and signs as if there were one slash
            path = "/" + path.lstrip("/")
        routed = unquote(path) if "%" in path else path
        matched = _APP_PATH.fullmatch(routed)
        if matched is not None:
            found = _route(request.method, matched[2])
            app = self._by_id.get(matched[1])
        else:
            found = _route(request.method, routed)
            app = self._by_key.get(query.get("auth_key", ""))
        if found is None:
            return NOT_FOUND
        handler, arguments = found
        if app is None:
            shown = matched[1] if matched is not None else ""
            raise HttpError(404, f"No matching application for ID [{shown}].")
        verify(app, request, path, query, now, self._grace)
        return handler(Call(app, query, request.body, arguments, self._refs, self._cache_ttl))

    def app_of(self, app_id: str) -> App | None:
        """The app of this id."""
        return self._by_id.get(app_id)

    def app(self, key: str) -> App | None:
        """The app of a public key."""
        return self._by_key.get(key)


def _route(method: str, path: str) -> tuple[Handler, tuple[str, ...]] | None:
    allowed = []
    for pattern, expected, handler in _TABLE:
        matched = pattern.fullmatch(path)
        if matched is not None:
            if expected == method or (expected, method) == ("GET", "HEAD"):
                return handler, matched.groups()
            allowed.append(expected)
    if allowed:
        raise HttpError(405, "Method not allowed.", headers=(("Allow", ", ".join(allowed)),))
    return None
