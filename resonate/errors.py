"""One tree of exceptions. Each carries what the other side is to be told: a Pusher code, a close code or a status."""

from __future__ import annotations

from typing import Final, NamedTuple


class ResonateError(Exception):
    """The root: whatever this package raises on purpose."""


class ConfigurationError(ResonateError):
    """A setting that cannot be used. The text names the source, the key, the value and the remedy."""

    def __init__(self, key: str, reason: str, *, source: str = "", value: object = None) -> None:
        self.key, self.reason, self.source, self.value = key, reason, source, value
        shown = "" if value is None else f" = {value!r}"
        super().__init__(f"{source + ': ' if source else ''}{key}{shown}: {reason}")


class Fault(NamedTuple):
    """What a client is told in a `pusher:error` event.

    It is a value: an exception that is kept as a constant keeps the frames that it was raised in, for ever.
    """

    code: int
    message: str


class PusherError(ResonateError):
    """A client's message is refused with a fault."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(f"{fault.code} {fault.message}")


class SnapshotError(ResonateError):
    """What another worker has sent of a connection is none."""


#: What it raises to take such a thing apart; `SnapshotError` is made of it where a connection is.
UNFIT: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class WebSocketError(ResonateError):
    """A violation of RFC 6455. `code` is the close code to fail the connection with (section 7.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code} {reason}")


class HttpError(ResonateError):
    """A request that is answered with an error status.

    `close`: the connection cannot be used after it. `body` is JSON to answer in place of `{"error": message}`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
        body: bytes | None = None,
    ) -> None:
        self.status, self.message, self.headers, self.close, self.body = status, message, headers, close, body
        super().__init__(f"{status} {message}")
