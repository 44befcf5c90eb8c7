"""RFC 6455 as values: bytes in, events out, bytes to send. No socket is touched here."""

from resonate.websocket.frames import encode_close, encode_ping, encode_pong, encode_text
from resonate.websocket.handshake import accept_upgrade
from resonate.websocket.protocol import Close, Event, Fail, Message, Oversized, Ping, Pong, WebSocket

__all__ = [
    "Close",
    "Event",
    "Fail",
    "Message",
    "Oversized",
    "Ping",
    "Pong",
    "WebSocket",
    "accept_upgrade",
    "encode_close",
    "encode_ping",
    "encode_pong",
    "encode_text",
]
