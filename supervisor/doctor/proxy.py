"""The way from the public address to the server: whether what is in front of it passes WebSockets on.

If the server runs, both are asked for one. If not, we listen in its place for a moment, and see what arrives.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final

from resonate.supervisor import address
from resonate.supervisor.address import Address
from resonate.supervisor.doctor.case import Case
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, warning
from resonate.supervisor.doctor.handshake import PATIENCE_S, Handshake, Head, StandIn, Target

from resonate.errors import ConfigurationError
from resonate.settings import App, Settings

_DIRECTIVES: Final = (
    "in nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade"
)
_FORWARDED: Final = (
    "in nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme"
)
_PUBLIC: Final = "REVERB_HOST, REVERB_PORT, REVERB_SCHEME"
#: What an answer with one of these most likely means, and what to look at.
_ANSWERS: Final = {
    426: ("the upgrade does not arrive at the server", _DIRECTIVES),
    400: ("the upgrade arrives at the server only in part", _DIRECTIVES),
    301: ("it redirects", f"the address that it names ({_PUBLIC})"),
    302: ("it redirects", f"the address that it names ({_PUBLIC})"),
    308: ("it redirects", f"the address that it names ({_PUBLIC})"),
    404: ("nobody knows the path there: it is no way to this server, or `path` differs", "its location /app/"),
    502: ("it does not reach the server", "the server's address in it"),
    503: ("it has no server that is ready", "the server's address in it"),
    504: ("it does not reach the server", "the server's address in it"),
}


def proxy(case: Case) -> Iterator[Finding]:
    """The public address of the first app that has one."""
    app = next((app for app in case.settings.apps if app.options.host), None)
    if case.incumbent is not None:
        yield from _directly(case.settings)
    if app is None:
        yield note(
            "no public address is configured: what is in front of the server was not looked at",
            remedy=f"{_PUBLIC} say how clients reach it",
        )
        return
    target = _public(app)
    if case.incumbent is not None:
        yield from asked(target, _path(case.settings, app))
        yield note(
            "which X-Forwarded headers arrive can be seen only while the server is stopped; the time-out for silent "
            "connections not at all",
            remedy="it must be longer than ping_interval (in nginx: proxy_read_timeout 120s)",
        )
    else:
        yield from _in_its_place(case.settings, app, target)


def _path(settings: Settings, app: App) -> str:
    return f"{settings.server.path}/app/{app.key}?protocol=7&client=doctor&version=1&mark={secrets.token_hex(8)}"


def _public(app: App) -> Target:
    host, port = str(app.options.host).strip("[]"), app.options.port
    name = address.bracketed(host)
    if app.options.use_tls if app.options.use_tls is not None else app.options.scheme == "https":
        return Target((host, port), name if port == 443 else f"{name}:{port}", ssl.create_default_context())
    return Target((host, port), name if port == 80 else f"{name}:{port}")


# --- while the server runs -------------------------------------------------------------------------------------------


def _directly(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    try:
        where = address.resolve(server.host, server.port)
    except ConfigurationError:
        return
    tls = ssl.create_default_context() if server.tls is not None else None
    if tls is not None:  # its name and authority are another check's
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    target = Target(_reachable(where), address.text(server.host, server.port), tls)
    yield from asked(target, _path(settings, settings.apps[0]))


def _reachable(where: Address) -> tuple[str, int] | str:
    if where.family is socket.AF_UNIX:
        return str(where.name)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.name[0], where.name[0])  # noqa: S104 - what it may be
    return host, where.name[1]


def asked(target: Target, path: str) -> Iterator[Finding]:
    """Ask for a WebSocket there, without trust in a certificate if it must be."""
    try:
        with closing(Handshake(target, path)) as handshake:
            yield from _judged(target, handshake.answer(), handshake)
    except ssl.SSLCertVerificationError as error:
        yield warning(
            f"{target.name}: this machine does not trust its certificate: {error.verify_message}",
            "clients may not either",
            "the chain of the certificate there, or its name",
        )
        blind = ssl.create_default_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        yield from asked(replace(target, tls=blind), path)
    except OSError as error:
        yield warning(
            f"{target.name} cannot be reached from here: {error.strerror or error}",
            "nor by clients, unless only this machine is shut out",
            f"the name, a firewall, and {_PUBLIC}",
        )


def _judged(target: Target, answer: Head, handshake: Handshake) -> Iterator[Finding]:
    via = answer.headers.get("server") or answer.headers.get("via")
    by = f" by {via}" if via else ""
    if answer.status != 101:
        why, remedy = _ANSWERS.get(answer.status, ("that is no way to this server", f"{_PUBLIC}, and what is in front"))
        yield problem(f"{target.name} refuses a WebSocket{by}: {answer.first[:100]}", why, remedy)
        return
    greeting = handshake.greeting()
    if b"pusher:" in greeting:
        yield ok(f"{target.name} passes a WebSocket{by}, and the server greets")
    else:
        yield problem(
            f"{target.name} passes a WebSocket{by}, but no greeting of this server comes",
            "it is another server, or something holds back what the server sends",
            "in nginx: proxy_buffering off",
        )


# --- while it does not -----------------------------------------------------------------------------------------------


def _in_its_place(settings: Settings, app: App, target: Target) -> Iterator[Finding]:
    server = settings.server
    if server.tls is not None or server.host.startswith(address.UNIX):
        yield note("the server does not run: the way to it was not looked at", remedy="resonate doctor, when it runs")
        return
    try:
        where = address.resolve(server.host, server.port)
        with socket.create_server(where.name[:2], family=where.family) as listening:
            yield from arriving(listening, target, _path(settings, app))
    except (ConfigurationError, OSError):
        yield note(
            "neither is the server here, nor can its place be taken: the way to it was not looked at",
            remedy="resonate doctor, when it runs",
        )


def arriving(listening: socket.socket, target: Target, path: str, patience_s: float = PATIENCE_S) -> Iterator[Finding]:
    """What arrives at a socket of what is asked for at the public address."""
    answer = ""
    try:
        with closing(Handshake(target, path)) as handshake:
            head, wrong = StandIn(listening).meet(path.rpartition("=")[2], patience_s)
            if head is None:
                answer = handshake.answer().first[:100]
    except ssl.SSLCertVerificationError as error:
        yield warning(
            f"{target.name}: this machine does not trust its certificate: {error.verify_message}",
            "clients may not either",
            "the chain of the certificate there, or its name",
        )
        return
    except OSError as error:
        yield note(f"{target.name} cannot be reached from here while the server is stopped: {error.strerror or error}")
        return
    if head is None:
        yield warning(
            f"{target.name} answers {answer}, and nothing arrives at this server",
            "what is in front does not lead here, or has given up while the server was stopped",
            f"the server's address in it, and {_PUBLIC}",
        )
    elif wrong:
        yield problem(f"{target.name} does not pass WebSockets on: {wrong}", "no client can connect", _DIRECTIVES)
    else:
        yield ok(f"{target.name} passes WebSockets on to this server")
        yield _forwarded(head)


def _forwarded(head: Head) -> Finding:
    wanted = ("x-forwarded-for", "x-forwarded-proto")
    seen = [name for name in wanted if name in head.headers]
    if len(seen) == len(wanted):
        return ok("X-Forwarded-For and X-Forwarded-Proto arrive")
    missing = [name.title() for name in wanted if name not in seen]
    return note(f"{' and '.join(missing)}: not there", "a hosted site does not know how it was asked for", _FORWARDED)
