"""The start page of `resonate:app`: what runs here, how to connect to it, and a console to try it in the browser.

The page is one static file. What differs from server to server travels in a JSON block that its script reads, so the
hashes in the content security policy are those of the file as it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from resonate import __version__
from resonate.errors import HttpError
from resonate.http import Response, error_response
from resonate.http.values import TEXT

CONSOLE = "resonate.console"
MAX_BODY = 4096
# Whoever can open the page may publish without a secret, so only to channels that no application uses.
CHANNEL = re.compile(r"try-[A-Za-z0-9_\-=@,.;]{1,196}")
MAX_EVENT_NAME = 200
NEEDS_WORKER = (
    "<strong>Only this page is being served.</strong> The real-time server runs in its own kind of worker: "
    "start it with <code>gunicorn -k resonate.worker resonate:app</code>."
)


class Console(Protocol):
    """The way from the page into the worker, which puts it into the WSGI environ as `resonate.console`."""

    @property
    def prefix(self) -> str:
        """The path that stands before every route of the server, such as `/realtime`, or nothing."""

    def keys(self) -> list[str]:
        """The public keys of the apps to offer; none switches publishing off."""

    def publish(self, key: str, channel: str, event: str, data: str) -> None:
        """Publish to the app with this key, as the REST API does. Raises HttpError when it cannot."""


@dataclass(frozen=True)
class Message:
    """What the console wants to have published. `app` is the key of an app, empty for the first one."""

    app: str
    channel: str
    event: str
    data: str


class StartPage:
    """The WSGI application: the page at `/`, the console's publishing at `/publish`, nothing else.

    `template` is the text of the page, with one `<style>` and one `<script>` element and the places `{{version}}`,
    `{{notice}}` and `{{config}}` outside of them.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        policy = (
            "default-src 'none'; "
            f"script-src '{_hash(template, 'script')}'; style-src '{_hash(template, 'style')}'; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._headers = [
            ("Content-Security-Policy", policy),
            ("X-Content-Type-Options", "nosniff"),
            # Not `no-referrer`: there are browsers that send `Origin: null` under it, which `/publish` refuses.
            ("Referrer-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ]
        self._routes: dict[str, dict[str, Callable[[WSGIEnvironment], Response]]] = {
            "/": {"GET": self._show, "HEAD": self._show},
            "/publish": {"POST": self._publish},
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._route(environ)(environ)
        except HttpError as error:
            answer = error_response(error)
        length = ("Content-Length", str(len(answer.body)))
        headers = [("Content-Type", answer.content_type), length, *answer.headers, *self._headers]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _route(self, environ: WSGIEnvironment) -> Callable[[WSGIEnvironment], Response]:
        console = _console(environ)
        path: str = environ.get("PATH_INFO", "")
        if console and path.startswith(console.prefix + "/"):
            path = path.removeprefix(console.prefix)
        elif console and path == console.prefix:
            path = "/"
        methods = self._routes.get(path or "/")
        if methods is None:
            return lambda _: _plain(404, "Not found.")
        allowed = ("Allow", ", ".join(methods))
        return methods.get(environ["REQUEST_METHOD"], lambda _: _plain(405, "Method not allowed.", allowed))

    def _show(self, environ: WSGIEnvironment) -> Response:
        console = _console(environ)
        config = {
            "version": __version__,
            "served": console is not None,
            "keys": console.keys() if console else [],
            "prefix": console.prefix if console else "",
        }
        page = (
            self._template.replace("{{version}}", escape(__version__))
            .replace("{{notice}}", "" if console else f'<p class="notice" role="alert">{NEEDS_WORKER}</p>')
            .replace("{{config}}", _inline_json(config))
        )
        return Response(200, page.encode(), "text/html; charset=utf-8")

    def _publish(self, environ: WSGIEnvironment) -> Response:
        """Publish what the console of the page posts. Raises HttpError for whatever else posts here."""
        console = _console(environ)
        keys = console.keys() if console else []
        if console is None or not keys:
            raise HttpError(403, "The console is switched off.")
        _check_same_origin(environ)
        message = _message(_body(environ))
        key = message.app or keys[0]
        if key not in keys:
            raise HttpError(422, "There is no app with this key.")
        console.publish(key, message.channel, message.event, message.data)
        return Response(200, b"{}")


def _console(environ: WSGIEnvironment) -> Console | None:
    return cast("Console | None", environ.get(CONSOLE))


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, text.encode(), TEXT, headers)


def _hash(template: str, element: str) -> str:
    """The CSP source of the inline element, which must be there once and without attributes."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", template, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _inline_json(value: Mapping[str, object]) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    return json.dumps(value).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _check_same_origin(environ: WSGIEnvironment) -> None:
    """Raise HttpError unless a script of this very page asks: no other site can send both of these headers."""
    host = environ.get("HTTP_HOST", "").lower()
    same = host and environ.get("HTTP_ORIGIN", "").lower() in (f"http://{host}", f"https://{host}")
    if not same or environ.get("HTTP_X_RESONATE_CONSOLE") != "1":
        raise HttpError(403, "Only the page itself may publish here. A proxy in front must pass the Host header on.")


def _body(environ: WSGIEnvironment) -> bytes:
    length: str = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()):
        raise HttpError(411, "The length of the body is required.")
    if len(length) > 9 or int(length) > MAX_BODY:
        raise HttpError(413, f"The body is longer than {MAX_BODY} bytes.")
    body: bytes = environ["wsgi.input"].read(int(length))
    return body


def _message(body: bytes) -> Message:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # the former also when it is not UTF-8
        raise HttpError(400, "The body is not JSON.") from None
    if not isinstance(fields, dict):
        raise HttpError(422, "The body must be a JSON object.")
    values = {name: fields.get(name, "") for name in ("app", "channel", "event", "data")}
    for name, value in values.items():
        if not isinstance(value, str):
            raise HttpError(422, f"The {name} field must be a string.")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise HttpError(422, f"The {name} field holds half a surrogate pair.")
    message = Message(**values)
    if not CHANNEL.fullmatch(message.channel):
        raise HttpError(422, "From here, only channels can be published to whose name begins with try-.")
    if not 0 < len(message.event) <= MAX_EVENT_NAME:
        raise HttpError(422, f"The event field must have 1 to {MAX_EVENT_NAME} characters.")
    if message.event.startswith("pusher"):
        raise HttpError(422, "Events whose name begins with pusher are the server's own.")
    return message


app = StartPage((Path(__file__).parent / "pages" / "start.html").read_text("utf-8"))
