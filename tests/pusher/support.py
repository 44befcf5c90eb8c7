"""What the tests of sessions share: an app, an opened session, messages and signatures written out by hand."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from resonate.errors import Fault
from resonate.messages import Attach, Connected, Member, Refresh, Subscribe, Subscribed
from resonate.pusher import Effect, Session, events
from resonate.settings import App, Server

SECRET = "secret1"
ID = "123.456"
APP = App(app_id="app1", key="key1", secret=SECRET)
SERVER = Server()


def app(**options: Any) -> App:
    """The usual app with some options of its own."""
    return App(app_id="app1", key="key1", secret=SECRET, **options)


def opened(application: App = APP, server: Server = SERVER, socket_id: str = ID) -> Session:
    """A session that the shard has given a place."""
    session = Session(application, socket_id, server)
    session.open()
    session.connected(Connected(application.app_id, socket_id, True))
    return session


def signature(text: str, secret: str = SECRET) -> str:
    """What a back end signs with, independent of the code under test."""
    return "key1:" + hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def message(event: str, data: Any = None, **more: Any) -> bytes:
    """A client's message; `data` None leaves it out."""
    return json.dumps({"event": event, **({} if data is None else {"data": data}), **more}).encode()


def subscription(channel: str, channel_data: str | None = None, socket_id: str = ID) -> bytes:
    """A `pusher:subscribe`, signed where the kind of channel wants it."""
    data: dict[str, Any] = {"channel": channel}
    if channel.startswith(("private", "presence")):
        text = f"{socket_id}:{channel}" + ("" if channel_data is None else f":{channel_data}")
        data["auth"] = signature(text)
    if channel_data is not None:
        data["channel_data"] = channel_data
    return message("pusher:subscribe", data)


def say(session: Session, text: bytes, now: float = 0) -> list[Effect]:
    """The effects of a message, as `told`."""
    return told(session.receive(text, now))


def told(effects: list[Effect]) -> list[Effect]:
    """Effects with each fault in the words in which the client is told of it."""
    return [events.error(effect) if isinstance(effect, Fault) else effect for effect in effects]


def asked(session: Session, channel: str, channel_data: str | None = None) -> Subscribe:
    """Subscribe, and return the request that the shard gets for it."""
    request, *rest = say(session, subscription(channel, channel_data, session.id))
    assert isinstance(request, Subscribe), request
    assert rest in ([], [Attach("app1")])
    return request


def answer(request: Effect, members: list[tuple[Any, Any]] | None = None, cached: bytes | None = None) -> Subscribed:
    """The shard's answer to a subscription."""
    assert isinstance(request, Subscribe | Refresh), request
    return Subscribed(request.app, request.channel, request.socket, request.ref, members, cached)


def joined(session: Session, channel: str, channel_data: str | None = None) -> list[Effect]:
    """Subscribe and have it answered; what the client is told."""
    request = asked(session, channel, channel_data)
    effects = session.subscribed(answer(request, None if request.member is None else [info(request.member)]))
    assert effects is not None
    return effects


def info(member: Member) -> tuple[Any, Any]:
    """A member as a shard lists it."""
    return member.data["user_id"], member.data["user_info"]


def read(effect: Effect) -> dict[str, Any]:
    """A payload for the client, as JSON."""
    assert isinstance(effect, bytes), effect
    value: dict[str, Any] = json.loads(effect)
    return value


def fault(effects: list[Effect]) -> tuple[int, str]:
    """Code and message of the one error that the client is told."""
    (effect,) = effects
    value = read(effect)
    assert list(value) == ["event", "data"]
    assert value["event"] == "pusher:error"
    data = json.loads(value["data"])
    assert list(data) == ["code", "message"]
    return data["code"], data["message"]
