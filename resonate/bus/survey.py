"""Questions of type `metrics` in the envelope of the PHP server Resonate: each node answers with what it has itself.

Who asks adds them up, and waits for as many answers as there are listeners: so each shard answers, also with nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from resonate.pusher import kind_of
from resonate.shard.cluster.outside import Here, Survey

#: Channels, and connections, that one answer may be about.
MOST_CHANNELS: Final = 10_000
MOST_CONNECTIONS: Final = 100_000


class UnansweredError(Exception):
    """It is not answered; the text says why."""


def question(app: str, payload: dict[str, Any]) -> Survey | None:
    """What is asked; None where that is somebody's answer. Raises UnansweredError."""
    if "metrics" in payload:
        return None
    key, about, options = payload.get("key"), payload.get("type"), payload.get("options") or {}
    if not isinstance(key, str) or not isinstance(about, str) or not isinstance(options, dict):
        raise UnansweredError("a question of type metrics without key, type or options")
    if about not in _ANSWERS:
        raise UnansweredError("a question of type metrics about something that is not known")
    return Survey(app, key, about, options)


def answer(survey: Survey, here: Here, now: float) -> Any:
    """Its `metrics`, for JSON. Raises UnansweredError."""
    return _ANSWERS[survey.about](survey, here, now)


def _channel(survey: Survey, here: Here, now: float) -> dict[str, Any]:
    name = _text(survey, "channel")
    return _info(survey.app, name, here.occupied(survey.app).get(name, 0), _wanted(survey), here, now)


def _channels(survey: Survey, here: Here, now: float) -> dict[str, Any]:
    occupied, asked = here.occupied(survey.app), survey.options.get("channels")
    if asked:
        names = [name for name in asked if isinstance(name, str)] if isinstance(asked, list) else []
    else:
        prefix = _text(survey, "filter")
        names = [name for name in occupied if name.startswith(prefix)]
    if len(names) > MOST_CHANNELS:
        raise UnansweredError(f"a question about more than {MOST_CHANNELS} channels")
    wanted = _wanted(survey)
    return {name: _info(survey.app, name, occupied.get(name, 0), wanted, here, now) for name in names}


def _info(app: str, name: str, subscriptions: int, wanted: set[str], here: Here, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "occupied" in wanted:
        found["occupied"] = bool(subscriptions)
    if not subscriptions:
        return found
    kind = kind_of(name)
    if "user_count" in wanted and kind.presence:
        found["user_count"] = len(here.held_users(app, name))
    if "subscription_count" in wanted and not kind.presence:
        found["subscription_count"] = subscriptions
    cached = here.last(app, name, now) if "cache" in wanted and kind.cache else None
    if cached is not None:
        found["cache"] = orjson.Fragment(cached)
    return found


def _users(survey: Survey, here: Here, now: float) -> list[dict[str, Any]]:
    return [{"id": user.id} for _, user in here.held_users(survey.app, _text(survey, "channel"))]


def _presence(survey: Survey, here: Here, now: float) -> dict[str, Any]:
    held = here.held_users(survey.app, _text(survey, "channel"))
    ids = [user.id for _, user in held]
    if not ids:
        return {}
    return {"presence": {"count": len(ids), "ids": ids, "hash": {key: user.info for key, user in held}}}


def _connections(survey: Survey, here: Here, now: float) -> list[dict[str, Any]]:
    """So many: a shard knows how many there are, and not who. Who asks counts them."""
    _, attached = here.connections(survey.app)
    if attached > MOST_CONNECTIONS:
        raise UnansweredError(f"a question about more than {MOST_CONNECTIONS} connections")
    return [{}] * attached


def _nobody(survey: Survey, here: Here, now: float) -> list[Any]:
    """Which connections of a user came first is nobody's concern here: his edges are decided in the log."""
    return []


_ANSWERS: Final[dict[str, Callable[[Survey, Here, float], Any]]] = {
    "channel": _channel,
    "channels": _channels,
    "channel_users": _users,
    "connections": _connections,
    "presence_connections": _nobody,
    "presence_data": _presence,
}


def _text(survey: Survey, name: str) -> str:
    value = survey.options.get(name)
    return value if isinstance(value, str) else ""


def _wanted(survey: Survey) -> set[str]:
    return set(_text(survey, "info").split(","))
