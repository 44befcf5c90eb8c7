"""How events look on the wire, and how a client's message is read."""

from __future__ import annotations

from typing import Any, Final

import orjson

from resonate.errors import Fault, PusherError
from resonate.messages import user_key

#: How deep JSON may surely nest. PHP stops at 512; orjson writes 254 levels, and an event adds some.
MAX_DEPTH: Final = 200

INVALID_FORMAT: Final = Fault(4200, "Invalid message format")
UNAUTHORIZED: Final = Fault(4009, "Connection is unauthorized")

PONG: Final = b'{"event":"pusher:pong"}'
PING: Final = b'{"event":"pusher:ping"}'


def json_text(value: Any) -> str:
    """`value` as JSON text, to stand as a string in an event's `data`."""
    return orjson.dumps(value).decode()


def established(socket_id: str, activity_timeout: int) -> bytes:
    """The first message of a connection. pusher-js fails when anything comes before it."""
    data = json_text({"socket_id": socket_id, "activity_timeout": activity_timeout})
    return orjson.dumps({"event": "pusher:connection_established", "data": data})


def error(fault: Fault) -> bytes:
    """A `pusher:error`."""
    return orjson.dumps({"event": "pusher:error", "data": json_text({"code": fault.code, "message": fault.message})})


def succeeded(channel: str, members: list[tuple[Any, Any]] | None) -> bytes:
    """The success of a subscription; on a presence channel with its users as (id, user_info)."""
    data = "{}"
    if members is not None:
        hash_ = {user_key(id_): info for id_, info in members}
        data = json_text({"presence": {"count": len(members), "ids": [id_ for id_, _ in members], "hash": hash_}})
    return orjson.dumps({"event": "pusher_internal:subscription_succeeded", "data": data, "channel": channel})


def cache_miss(channel: str) -> bytes:
    """There is no event to give to a new subscriber of a cache channel."""
    return orjson.dumps({"event": "pusher:cache_miss", "channel": channel})


def member_added(channel: str, data: dict[str, Any]) -> bytes:
    """The first connection of a user has joined; all of the signed `channel_data` is passed on."""
    return orjson.dumps({"event": "pusher_internal:member_added", "data": json_text(data), "channel": channel})


def member_removed(channel: str, user_id: Any) -> bytes:
    """The last connection of a user has gone."""
    data = json_text({"user_id": user_id})
    return orjson.dumps({"event": "pusher_internal:member_removed", "data": data, "channel": channel})


def signin_success(user_data: str) -> bytes:
    """The answer to `pusher:signin` (Pusher's user authentication)."""
    return orjson.dumps({"event": "pusher:signin_success", "data": json_text({"user_data": user_data})})


def published(name: str, channel: str, data: str) -> bytes:
    """An event from `POST /events`."""
    return orjson.dumps({"event": name, "data": data, "channel": channel})


def published_in_batch(name: str, channel: str, data: str) -> bytes:
    """An event from `POST /batch_events`: Reverb writes the keys in another order there."""
    return orjson.dumps({"event": name, "channel": channel, "data": data})


def client_event(name: str, channel: str, data: Any, user: Any = None) -> bytes:
    """An event from a client; `user` is the sender's user id on a presence channel, else None."""
    value = {"event": name, "channel": channel, "data": data}
    if user is not None:
        value["user_id"] = user
    return orjson.dumps(value)


def relayed(event: dict[str, Any], channel: str) -> bytes:
    """An event that another program has put together, for one of its channels: all else of it is passed on."""
    value = {key: each for key, each in event.items() if key != "channels"}
    value["channel"] = channel
    return orjson.dumps(value)


def relaying(payload: bytes, channel: str) -> bytes:
    """The opposite: an event on the wire as such programs put it together, with a list of its channels."""
    return b'{"channels":%b,%b' % (orjson.dumps([channel]), payload[1:])


def decode(text: bytes) -> dict[str, Any]:
    """A client's message: an object with an `event`; `data` that is a string of JSON is decoded too.

    Raises PusherError 4200 for anything else.
    """
    message = parse(text)
    if not isinstance(message, dict) or not isinstance(message.get("event"), str) or not message["event"]:
        raise PusherError(INVALID_FORMAT)
    data = message.get("data")
    if isinstance(data, str) and data:
        try:
            message["data"] = parse(data.encode())
        except PusherError:
            pass  # a string it is, and whether one may stand there is for others to say
    return message


def parse(text: bytes) -> Any:
    """JSON that somebody else has written. Raises PusherError 4200 when it is none, or nests too deep to be passed on.

    orjson reads deeper than it writes; only what has so many brackets is worth the trial.
    """
    try:
        value = orjson.loads(text)
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            orjson.dumps([[[[[[[[value]]]]]]]])  # as deep as any event or frame of the bus will put it
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        raise PusherError(INVALID_FORMAT) from None
    return value
