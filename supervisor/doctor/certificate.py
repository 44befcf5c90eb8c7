"""The certificate that the server itself shows.

It is looked at as a client does, in a handshake in memory: what OpenSSL says of it is what clients will say.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any, Final

from resonate.supervisor.doctor.case import Case
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, warning

from resonate.errors import ConfigurationError
from resonate.server.tls import context_of

#: How long before its end a certificate should have been renewed.
SOON_S: Final = 14 * 86_400
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for: when it ends we see ourselves.
_ANY_TIME: Final = 0x200000

_RELOAD: Final = "renew it, then: resonate reload"


def certificate(case: Case) -> Iterator[Finding]:
    """Whether it can be used, until when, for which names, and whether clients trust it."""
    settings = case.settings.server.tls
    if settings is None:
        yield note("TLS does not end in the server (no options.tls)")
        return
    try:
        server = context_of(settings)
    except ConfigurationError as error:
        yield problem(str(error), "the server cannot start", "local_cert, local_pk, passphrase below options.tls")
        return
    itself = _trusting(settings.local_cert)
    try:
        shown = shake(server, itself, None)
    except ssl.SSLError as error:
        yield problem(f"no handshake is possible: {_reason(error)}", "no client can connect", _RELOAD)
        return
    yield _validity(shown, case.machine.clock())
    names = sorted({name for name in _names(case) if name})
    for name in names:
        yield _named(server, itself, name)
    yield from _trusted(server)


def _names(case: Case) -> Iterator[str | None]:
    """Under which clients reach the server itself."""
    yield case.settings.server.hostname
    for app in case.settings.apps:
        if app.options.port == case.settings.server.port:  # otherwise it is the name of a proxy
            yield app.options.host


def _trusting(file: str) -> ssl.SSLContext:
    """A client that trusts these certificates whoever has signed them, at any time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(file)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _ANY_TIME
    return context


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> Any:
    """A handshake between the two; the certificate that the client has accepted. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up, server_hostname=name)
    answering = server.wrap_bio(up, down, server_side=True)
    for side in (asking, answering, asking):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return asking.getpeercert()


def _validity(shown: Any, now: float) -> Finding:
    begins, ends = (ssl.cert_time_to_seconds(shown[key]) for key in ("notBefore", "notAfter"))
    if now > ends:
        return problem(f"the certificate has expired: {shown['notAfter']}", "no client accepts it", _RELOAD)
    if now < begins:
        return problem(
            f"the certificate begins in the future: {shown['notBefore']}",
            "no client accepts it",
            "timedatectl set-ntp true, if it is this clock that is wrong",
        )
    left = ends - now
    if left < SOON_S:
        return warning(
            f"the certificate expires in {left / 86_400:.0f} days: {shown['notAfter']}",
            "no client accepts it after that",
            _RELOAD,
        )
    return ok(f"the certificate is good for {left / 86_400:.0f} days, and the key is its own")


def _named(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> Finding:
    client.check_hostname = True
    try:
        shake(server, client, name)
    except ssl.SSLError as error:
        return problem(
            f"the certificate is not for {name}: {_reason(error)}",
            "clients that connect to this name refuse it",
            "a certificate with this name, or another hostname (REVERB_HOST)",
        )
    finally:
        client.check_hostname = False
    return ok(f"the certificate is for {name}")


def _trusted(server: ssl.SSLContext) -> Iterator[Finding]:
    """By the authorities that this machine knows."""
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_flags |= _ANY_TIME
    try:
        shake(server, client, None)
    except ssl.SSLError as error:
        yield warning(
            f"this machine does not trust the certificate: {_reason(error)}",
            "nor do browsers, if the chain is not complete or its authority is your own",
            "local_cert wants the certificate first, then those between it and the authority",
        )


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)
