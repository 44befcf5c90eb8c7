"""TLS in the worker: a transport that encrypts, and its contexts from `options.tls` or from gunicorn's options."""

from __future__ import annotations

import ssl
from _socket import SocketType
from typing import Any

from gunicorn import sock

from resonate.errors import ConfigurationError
from resonate.server.transport import CHUNK, LINGER_S, Reactor, Transport
from resonate.settings import Tls


def context_of(settings: Tls) -> ssl.SSLContext:
    """Raises ConfigurationError, with the file and what is wrong with it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.local_cert, settings.local_pk, settings.passphrase or "")
    except FileNotFoundError:
        files = " or ".join(filter(None, (settings.local_cert, settings.local_pk)))
        raise ConfigurationError("options.tls", f"no such file: {files}") from None
    except OSError as error:  # ssl.SSLError is one
        files = f"{settings.local_cert} and {settings.local_pk or 'the key in it'}"
        hint = ", or the passphrase is not theirs" if settings.passphrase else ", or the key wants a passphrase"
        raise ConfigurationError("options.tls", f"{files} cannot be used: {error}{hint}") from None
    return _http_only(context)


def gunicorn_context(config: Any) -> ssl.SSLContext:
    """The context of gunicorn's --certfile and its kin."""
    context: ssl.SSLContext = sock.ssl_context(config)
    return _http_only(context)


def _http_only(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsTransport(Transport):
    """The same with TLS in between. The handshake happens on the way, bounded by the protocol's first deadline."""

    __slots__ = ("_incoming", "_outgoing", "_ready", "_tls")

    portable = False  # the keys cannot leave OpenSSL

    def __init__(self, sock: SocketType, reactor: Reactor, context: ssl.SSLContext) -> None:
        super().__init__(sock, reactor)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ready = False

    def write(self, data: bytes) -> None:
        """Encrypt and queue; what waits for a slow peer is ciphertext."""
        if not self._closing and self._ready:
            self._tls.write(data)
            super().write(self._outgoing.read())

    def received(self, data: bytes) -> None:
        """Ciphertext from the kernel."""
        if self._closing:
            return
        self._incoming.write(data)
        try:
            if not self._ready:
                self._tls.do_handshake()
                self._ready = True
            while not self._closing:
                plain = self._tls.read(CHUNK)
                if not plain:  # close_notify
                    self._end()
                    return
                self.protocol.received(plain)
        except ssl.SSLWantReadError:
            self._send_ciphertext()
        except ssl.SSLError:
            self._send_ciphertext()  # the alert that says what was wrong
            self.close()

    def _send_ciphertext(self) -> None:
        data = self._outgoing.read()
        if data:
            super().write(data)

    def cut(self, last: bytes) -> None:
        """Records that have been encrypted cannot be forgotten: the end must be abrupt."""
        self.abort()

    def close(self, linger_s: int = LINGER_S) -> None:
        """As above, with a close_notify before the end."""
        if not self._closing and self._ready:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's close_notify is not waited for
            self._send_ciphertext()
        super().close(linger_s)
