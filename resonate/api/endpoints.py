"""What each route does.

An endpoint is a generator: it yields the requests that shards are to answer, is sent their answers in the same order,
and returns the response. It does not know where a shard is, nor how long it takes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final, NamedTuple

import orjson

from resonate.api import validation
from resonate.http import Response, json_response
from resonate.messages import (
    ChannelInfo,
    CountConnections,
    Describe,
    ListChannels,
    ListUsers,
    Publish,
    Question,
    Terminate,
)
from resonate.pusher import events as wire
from resonate.pusher import kind_of, user_channel
from resonate.settings import App

Endpoint = Generator[list[Question], list[Any], Response]

_DONE: Final = Response(200, b"{}")
_BATCH_DONE: Final = Response(200, b'{"batch":{}}')


class Call(NamedTuple):
    """A verified request. `arguments` come from the path, `refs` numbers the requests that this worker sends."""

    app: App
    query: dict[str, str]
    body: bytes
    arguments: tuple[str, ...]
    refs: Iterator[int]
    cache_ttl: int


def publish(call: Call) -> Endpoint:
    """POST /events"""
    event = validation.event(validation.body(call.body))
    infos = yield [
        _publication(call, channel, event, wire.published(event.name, channel, event.data))
        for channel in event.channels
    ]
    if event.info is None:
        return _DONE
    answers = zip(event.channels, infos, strict=True)
    return json_response({"channels": {name: attributes(name, info, event.info) for name, info in answers}})


def publish_batch(call: Call) -> Endpoint:
    """POST /batch_events"""
    batch = validation.batch(validation.body(call.body))
    infos = yield [
        _publication(call, event.channels[0], event, wire.published_in_batch(event.name, event.channels[0], event.data))
        for event in batch
    ]
    if all(event.info is None for event in batch):
        return _BATCH_DONE
    answers = zip(batch, infos, strict=True)
    return json_response(
        {"batch": [attributes(event.channels[0], info, event.info) if event.info else {} for event, info in answers]}
    )


def publish_to_user(call: Call) -> Endpoint:
    """POST /users/{user}/events: Pusher's send-to-user, for users that signed in."""
    channel = user_channel(call.arguments[0])
    event = validation.user_event(validation.body(call.body), channel)
    yield [_publication(call, channel, event, wire.published(event.name, channel, event.data))]
    return _DONE


def channels(call: Call) -> Endpoint:
    """GET /channels"""
    wanted = call.query.get("info", "").split(",")
    prefix = call.query.get("filter_by_prefix", "")
    question = ListChannels(next(call.refs), call.app.app_id, prefix, "cache" in wanted, "user_count" in wanted)
    (found,) = yield [question]
    return json_response({"channels": {name: attributes(name, info, wanted) for name, info in found.items()}})


def channel(call: Call) -> Endpoint:
    """GET /channels/{channel}"""
    (name,) = call.arguments
    (info,) = yield [Describe(next(call.refs), call.app.app_id, name)]
    if not info.subscriptions:
        return json_response({"occupied": False})
    return json_response(attributes(name, info, ["occupied", *call.query.get("info", "").split(",")]))


def users(call: Call) -> Endpoint:
    """GET /channels/{channel}/users"""
    (name,) = call.arguments
    (ids,) = yield [ListUsers(next(call.refs), call.app.app_id, name)]
    if ids is None:
        return Response(404, b"{}")
    if not kind_of(name).presence:
        return Response(400, b"{}")
    return json_response({"users": [{"id": id_} for id_ in ids]})


def connections(call: Call) -> Endpoint:
    """GET /connections"""
    (count,) = yield [CountConnections(next(call.refs), call.app.app_id)]
    return json_response({"connections": count})


def terminate(call: Call) -> Endpoint:
    """POST /users/{user}/terminate_connections"""
    yield [Terminate(next(call.refs), call.app.app_id, call.arguments[0])]
    return _DONE


def attributes(name: str, info: ChannelInfo, wanted: list[str]) -> dict[str, Any]:
    """The attributes of a channel that were asked for and that its kind has, in Reverb's order."""
    kind = kind_of(name)
    found: dict[str, Any] = {}
    if "occupied" in wanted:
        found["occupied"] = info.subscriptions > 0
    if not info.subscriptions:
        return found
    if "user_count" in wanted and kind.presence:
        found["user_count"] = info.users
    if "subscription_count" in wanted and not kind.presence:
        found["subscription_count"] = info.subscriptions
    if "cache" in wanted and kind.cache and info.cached is not None:
        found["cache"] = orjson.Fragment(info.cached)
    return found


def _publication(call: Call, channel: str, event: validation.Event, payload: bytes) -> Publish:
    keep = call.cache_ttl if kind_of(channel).cache else 0
    return Publish(next(call.refs), call.app.app_id, channel, payload, event.socket_id, keep, event.info is not None)
