"""One tree of exceptions. Each carries what the other side is to be told: a Pusher code, a close code or a status."""

from __future__ import annotations


class ResonateError(Exception):
    """The root: whatever this package raises on purpose."""


class ConfigurationError(ResonateError):
    """A setting that cannot be used. The text names the source, the key, the value and the remedy."""

    def __init__(self, key: str, reason: str, *, source: str = "", value: object = None) -> None:
        self.key, self.reason, self.source, self.value = key, reason, source, value
        shown = "" if value is None else f" = {value!r}"
        super().__init__(f"{source + ': ' if source else ''}{key}{shown}: {reason}")


class PusherError(ResonateError):
    """What a client is told in a `pusher:error` event (codes of spec table *Errors*)."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code} {message}")


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
