"""What connections are packed into when they change their worker, and how they are unpacked."""

from __future__ import annotations

import os
from _socket import SocketType
from typing import Any, Final

import orjson

from resonate.errors import UNFIT, Fault, SnapshotError
from resonate.messages import Expel, Member, MemberAdded, MemberRemoved, Publication
from resonate.pusher import events as wire
from resonate.server.context import Context
from resonate.server.http_connection import HttpConnection
from resonate.server.plugin_state import unpacked
from resonate.server.pusher_connection import PusherConnection
from resonate.server.transport import Silent, Transport
from resonate.shard.handover import Heard, Holder, given_up, holdings
from resonate.websocket import encode_close, encode_text

_NO_APP: Final = Fault(4001, "Application does not exist")

#: One connection, as JSON can carry it.
Bag = dict[str, Any]


def packed(transport: Transport, bag: Bag) -> tuple[Bag, int]:
    """A connection without its state: that with what has not been sent, and the descriptor. It is gone here."""
    bag["ended"] = transport.ended
    descriptor, unsent = transport.release()
    bag["unsent"] = unsent.decode("latin-1")
    return bag, descriptor


class Luggage:
    """What has come from another worker: bags, each with a descriptor, or None where that has been lost on the way.
    `ref` 0: the shards do not know them.
    """

    def __init__(self, text: bytes, descriptors: list[int]) -> None:
        try:
            content = orjson.loads(text)
            self.ref = int(content["ref"])
            self.beliefs: list[tuple[str, str, list[Any]]] = [(app, name, ids) for app, name, ids in content["beliefs"]]
            self._bags: list[Bag] = content["bags"]
            spare = iter(descriptors)
            self._files = [next(spare, None) if bag["file"] else None for bag in self._bags]
        except (LookupError, TypeError, ValueError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise SnapshotError(f"what another worker has sent is no luggage: {error!r}") from None

    def close(self) -> None:
        """Nobody takes them in."""
        for descriptor in self._files:
            if descriptor is not None:
                os.close(descriptor)

    def settle(self, context: Context, missed: list[Heard]) -> None:
        """All begin to live here; first they are told what they have missed."""
        frames = [(event, encoded(event)) for event in missed]
        for bag, descriptor in zip(self._bags, self._files, strict=True):
            _settle(context, bag, descriptor, frames)


def encoded(event: Heard) -> bytes:
    """The frame that subscribers get, empty for what is none."""
    match event:
        case Publication():
            return encode_text(event.payload)
        case MemberAdded():
            return encode_text(wire.member_added(event.channel, event.data))
        case MemberRemoved():
            return encode_text(wire.member_removed(event.channel, event.id))
    return b""


def _settle(context: Context, bag: Bag, descriptor: int | None, missed: list[tuple[Heard, bytes]]) -> None:
    """Unpack one. Whatever is wrong with it, its descriptor does not stay open, and the others live."""
    if descriptor is None:  # it has gone on the way
        _give_up(context, bag)
        return
    sock = SocketType(fileno=descriptor)
    sock.setblocking(False)
    transport = Transport(sock, context.reactor)
    try:
        transport.adopt(bag["unsent"].encode("latin-1"), bool(bag["ended"]))
        if "http" in bag:
            HttpConnection.restore(context, transport, bag["http"]).settle()
        elif (app := context.api.app_of(bag["app"])) is None:
            _give_up(context, bag)
            _turn_away(context, transport)
        else:
            _settle_pusher(context, PusherConnection.restore(context, transport, app, bag["pusher"]), bag, missed)
    except Exception:
        context.log.exception("a connection of another worker could not be taken over")
        if not isinstance(transport.protocol, PusherConnection):
            _give_up(context, bag)
        transport.abort()


def _settle_pusher(
    context: Context, connection: PusherConnection, bag: Bag, missed: list[tuple[Heard, bytes]]
) -> None:
    transport, app = connection.transport, connection.session.app
    session, expelled = connection.session, bool(bag["expelled"])
    for event, frame in missed:
        if event.app != app.app_id:
            continue
        if isinstance(event, Expel):
            expelled = expelled or session.is_user(event.user)
        elif frame and event.channel in session.subscriptions and getattr(event, "except_", None) != session.id:
            transport.write(frame)
            context.stats.deliveries += 1
    if "state" in bag:
        _settle_state(context, connection, bag["state"])
    connection.settle()
    if expelled:
        connection.expel()
    elif bag["overflowed"]:
        connection.overflowed()


def _settle_state(context: Context, connection: PusherConnection, texts: Any) -> None:
    try:
        connection.state.update(unpacked(texts))
    except UNFIT as error:
        context.log.error("what plugins keep of a connection is lost, the connection goes on without: %r", error)


def _give_up(context: Context, bag: Bag) -> None:
    """It does not live here: give up what the shards count for it."""
    if "pusher" not in bag:
        return
    try:
        channels = [(name, member and Member(*member)) for name, member in bag["pusher"]["session"]["subscriptions"]]
        (held,) = holdings([Holder(bag["app"], channels)], 1)
    except UNFIT as error:  # then nobody knows what that is
        context.log.error("a connection of another worker could not be given up: %r", error)
        return
    for request in given_up(held):
        context.link.send(request)


def _turn_away(context: Context, transport: Transport) -> None:
    """Its app has been removed."""
    context.stats.errors[_NO_APP.code] += 1
    transport.start(Silent())
    transport.write(encode_text(wire.error(_NO_APP)))
    transport.write(encode_close(_NO_APP.code, _NO_APP.message))
    transport.close()
