"""TLS contexts of the worker, from `options.tls` or from gunicorn's options."""

from __future__ import annotations

import ssl
from typing import Any

from gunicorn import sock

from resonate.errors import ConfigurationError
from resonate.settings import Tls


def context_of(settings: Tls) -> ssl.SSLContext:
    """Raises ConfigurationError, with the file and what is wrong with it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.local_cert, settings.local_pk, settings.passphrase or "")
    except FileNotFoundError:
        raise ConfigurationError("options.tls", f"no such file: {settings.local_cert} or {settings.local_pk}") from None
    except OSError as error:  # ssl.SSLError is one
        files = f"{settings.local_cert} and {settings.local_pk or 'the key in it'}"
        raise ConfigurationError("options.tls", f"{files} cannot be used: {error}") from None
    return _http_only(context)


def gunicorn_context(config: Any) -> ssl.SSLContext:
    """The context of gunicorn's --certfile and its kin."""
    context: ssl.SSLContext = sock.ssl_context(config)
    return _http_only(context)


def _http_only(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context
