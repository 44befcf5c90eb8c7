"""What is answered while the other hosts cannot be reached; see docs/flows/hosts.md.

Each host serves its own clients then. Who asks what there is gets what this host knows; who writes is told that the
others will hear of it later, if at all, or that nothing has been done.
"""

from __future__ import annotations

from typing import Final

from resonate.api import Endpoint
from resonate.errors import HttpError
from resonate.http import Response, error_response, json_response
from resonate.scaling import Scaling
from resonate.server.context import Health

_HEALTHY: Final = Response(200, b'{"health":"OK"}')
#: Why this host is not healthy where an outage of Redis counts as that.
_ALONE: Final = "the other hosts cannot be reached"
_REFUSED: Final = error_response(
    HttpError(503, "The other hosts cannot be reached. Nothing has been done.", headers=(("Retry-After", "1"),))
)


def health(now: Health, scaling: Scaling) -> Response:
    """The answer to /up."""
    reason = now.reason
    if not scaling.enabled:
        return json_response({"health": reason}, 503) if reason else _HEALTHY
    if now.degraded and scaling.outage_health == "down":
        reason = reason or _ALONE
    standing = "degraded" if now.degraded else "ok"
    return json_response({"health": reason or "OK", "scaling": standing}, 503 if reason else 200)


def writing(endpoint: Endpoint, now: Health, scaling: Scaling) -> Endpoint:
    """An endpoint that publishes, or closes connections: what it answers is 202 where only this host has heard of it
    yet; or 503 where that is not wanted, before anything is done.
    """
    before = now.degraded
    if before and scaling.outage_publish == "refuse":
        return _REFUSED
    response = yield from endpoint
    if response.status == 200 and (before or now.degraded):  # it may have begun, or ended, meanwhile
        return response._replace(status=202)
    return response
