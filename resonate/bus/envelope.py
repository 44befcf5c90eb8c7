"""The envelope of Reverb and of the PHP server Resonate: what programs publish to the one channel of those, and hear.

What comes is data: what is no envelope is dropped, counted, and told once for each kind; nothing is raised. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from resonate.bus.survey import UnansweredError, answer, question
from resonate.errors import PusherError, ResonateError
from resonate.messages import Publish, Terminate, user_key
from resonate.pusher import events as wire
from resonate.pusher import kind_of
from resonate.shard.cluster.outside import Here, Survey

#: The longest envelope that is looked into, in bytes: scaling is no way around `max_request_size`.
MAX_BYTES: Final = 2**20
#: Channels of one event.
MAX_CHANNELS: Final = 100
#: The field by which hosts know what one of them has said: they have it from the log.
HOST: Final = "resonate_host"
#: How a genuine Reverb names the app: as an object of PHP, whose first field is the id, as long as it says in bytes.
_PHP: Final = re.compile(rb'O:26:"Laravel\\Reverb\\Application":[0-9]{1,3}:\{s:5:"\x00\*\x00id";s:([0-9]{1,4}):"')


class _RefusedError(ResonateError):
    """It is no envelope; the text says why, and has nothing of it."""


class Envelope:
    """`host` is this host's id, `cache_ttl` how long an event of a cache channel is kept, in seconds.

    `refused` counts what was none, or could not be answered.
    """

    def __init__(self, host: str, cache_ttl: int) -> None:
        self.refused = 0
        self._host = host
        self._cache_ttl = cache_ttl
        self._kinds: set[str] = set()  # of refusals that have been told
        self._complaints: list[str] = []

    def heard(self, data: bytes) -> Iterator[Publish | Terminate | Survey]:
        """What it asks for; nothing where a host has said it, or where it is refused."""
        try:
            return self._read(data)
        except _RefusedError as refusal:
            self._refuse(str(refusal))
            return iter(())

    def said(self, request: Publish | Terminate) -> bytes:
        """For who listens there: what this host has done."""
        value: dict[str, Any]
        if isinstance(request, Terminate):
            value = {"type": "terminate", "application": request.app, "payload": {"user_id": request.user}}
        else:
            payload = orjson.Fragment(wire.relaying(request.payload, request.channel))
            value = {"type": "message", "application": request.app, "payload": payload}
            if request.except_ is not None:
                value["socket_id"] = request.except_
        value[HOST] = self._host
        return orjson.dumps(value)

    def answer(self, survey: Survey, here: Here, now: float) -> bytes | None:
        """What this host has, for who has asked; None where that is refused."""
        try:
            metrics = answer(survey, here, now)
        except UnansweredError as error:
            self._refuse(str(error))
            return None
        payload = {"key": survey.key, "node": self._host, "metrics": metrics}
        return orjson.dumps({"type": "metrics", "application": survey.app, "payload": payload, HOST: self._host})

    def complaints(self) -> list[str]:
        """What the operator should be told, since this was last asked."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if why not in self._kinds:
            self._kinds.add(why)
            self._complaints.append(f"dropped a message on the Redis channel of the envelope: {why}; more are counted")

    def _read(self, data: bytes) -> Iterator[Publish | Terminate | Survey]:
        if len(data) > MAX_BYTES:
            raise _RefusedError(f"it is longer than {MAX_BYTES} bytes")
        try:
            value = wire.parse(data)
        except PusherError:
            raise _RefusedError("it is no JSON, or nests too deep") from None
        if not isinstance(value, dict):
            raise _RefusedError("it is no object")
        if isinstance(value.get(HOST), str):
            return iter(())
        kind = value.get("type")
        if kind not in ("message", "terminate", "metrics"):
            raise _RefusedError("its type is neither message, terminate nor metrics")
        app, payload = _app(value.get("application")), value.get("payload")
        if not isinstance(payload, dict):
            raise _RefusedError("its payload is no object")
        if kind == "metrics":
            return self._questions(app, payload)
        if kind == "terminate":
            return iter((Terminate(0, app, _user(payload)),))
        return self._publications(app, payload, _channels(payload), _socket(value))

    def _questions(self, app: str, payload: dict[str, Any]) -> Iterator[Survey]:
        try:
            asked = question(app, payload)
        except UnansweredError as error:
            raise _RefusedError(str(error)) from None
        return iter(() if asked is None else (asked,))

    def _publications(
        self, app: str, payload: dict[str, Any], channels: list[str], socket: str | None
    ) -> Iterator[Publish]:
        """One after another is made: each may be as long as all of the message."""
        return (
            Publish(0, app, name, wire.relayed(payload, name), socket, self._cache_ttl if kind_of(name).cache else 0)
            for name in channels
        )


def _app(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _RefusedError("its application is no text")
    if not value.startswith("O:"):
        return value
    data = value.encode()
    found = _PHP.match(data)
    if found is None:
        raise _RefusedError("its application is no object of Reverb")
    end = found.end() + int(found[1])
    if not data[found.end() : end] or data[end : end + 2] != b'";':
        raise _RefusedError("its application is no object of Reverb")
    try:
        return data[found.end() : end].decode()
    except UnicodeDecodeError:
        raise _RefusedError("its application is no object of Reverb") from None


def _channels(payload: dict[str, Any]) -> list[str]:
    if not isinstance(payload.get("event"), str) or not payload["event"]:
        raise _RefusedError("its payload has no event")
    value = payload["channels"] if payload.get("channels") is not None else payload.get("channel")
    if isinstance(value, dict):  # a PHP array is either
        value = list(value.values())
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise _RefusedError("its payload has no channels")
    if len(names) > MAX_CHANNELS:
        raise _RefusedError(f"it is for more than {MAX_CHANNELS} channels")
    return list(dict.fromkeys(names))


def _socket(value: dict[str, Any]) -> str | None:
    socket = value.get("socket_id")
    if socket is not None and not isinstance(socket, str):
        raise _RefusedError("its socket_id is no text")
    return socket


def _user(payload: dict[str, Any]) -> str:
    user = payload.get("user_id")
    if isinstance(user, bool) or not isinstance(user, str | int):
        raise _RefusedError("its payload has no user_id")
    return user_key(user)
