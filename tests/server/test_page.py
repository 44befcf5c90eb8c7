"""The start page, called as WSGI servers call it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from resonate import __version__
from resonate.errors import HttpError
from resonate.server.page import MAX_BODY, StartPage, app

HOST = "ws.example.com:8080"
FROM_THE_PAGE = {"HTTP_HOST": HOST, "HTTP_ORIGIN": f"http://{HOST}", "HTTP_X_RESONATE_CONSOLE": "1"}
MESSAGE = {"app": "key1", "channel": "try-hello", "event": "greeting", "data": '{"text": "Hello"}'}


@dataclass
class Worker:
    """What the worker puts into the environ, reduced to a list of what was published."""

    apps: tuple[str, ...] = ("key1", "key2")
    prefix: str = ""
    failure: HttpError | None = None
    published: list[tuple[str, str, str, str]] = field(default_factory=list)

    def keys(self) -> list[str]:
        return list(self.apps)

    def publish(self, key: str, channel: str, event: str, data: str) -> None:
        if self.failure:
            raise self.failure
        self.published.append((key, channel, event, data))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(method: str, path: str, console: Worker | None = None, body: bytes | None = None, **environ: str) -> Answer:
    started: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        started.append((status, dict(headers)))

    request: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, **environ}
    if console:
        request["resonate.console"] = console
    if body is not None:
        request |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    parts: Iterable[bytes] = app(request, start_response)
    whole = b"".join(parts)
    ((status, headers),) = started
    return Answer(int(status.split(" ", 1)[0]), headers, whole)


def post(message: object, console: Worker | None = None, **environ: str) -> Answer:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return call("POST", "/publish", console, body, **(FROM_THE_PAGE | environ))


def config(answer: Answer) -> Any:
    """The JSON block that the script of the page reads."""
    (text,) = re.findall(rb'<script type="application/json" id="config">(.*?)</script>', answer.body, re.DOTALL)
    return json.loads(text)


def test_page_says_what_runs_here() -> None:
    answer = call("GET", "/", Worker(prefix="/realtime"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert config(answer) == {"version": __version__, "served": True, "keys": ["key1", "key2"], "prefix": "/realtime"}
    assert b"{{" not in answer.body
    assert b'role="alert"' not in answer.body


def test_head_has_the_headers_of_get_and_no_body() -> None:
    get, head = call("GET", "/", Worker()), call("HEAD", "/", Worker())
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


def test_page_without_the_worker_says_how_to_start_it() -> None:
    answer = call("GET", "/")
    assert answer.status == 200
    assert b"gunicorn -k resonate.worker resonate:app" in answer.body
    assert config(answer)["served"] is False


@pytest.mark.parametrize("element", ["script", "style"])
def test_policy_allows_exactly_the_inline_element(element: str) -> None:
    answer = call("GET", "/", Worker())
    (content,) = re.findall(f"<{element}>(.*?)</{element}>".encode(), answer.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert f"{element}-src 'sha256-{digest}'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/", "/publish", "/nowhere"])
def test_every_answer_has_the_security_headers(path: str) -> None:
    headers = call("GET", path, Worker()).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_page_refers_to_no_other_host() -> None:
    body = call("GET", "/", Worker()).body.replace(b"xmlns='http://www.w3.org/2000/svg'", b"")
    assert re.findall(rb"https?://", body) == []
    assert re.findall(rb'\bstyle="|\bon[a-z]+="', body) == []


def test_key_cannot_break_out_of_the_script_element() -> None:
    answer = call("GET", "/", Worker(apps=("</script><script>alert(1)</script><!--",)))
    assert config(answer)["keys"] == ["</script><script>alert(1)</script><!--"]
    assert b"alert(1)</script>" not in answer.body


@pytest.mark.parametrize("path", ["/", "", "/realtime", "/realtime/"])
def test_page_stands_at_the_root_and_at_the_prefix(path: str) -> None:
    assert call("GET", path, Worker(prefix="/realtime")).status == 200


@pytest.mark.parametrize("path", ["/index.html", "/publish/", "/realtimes/", "/realtime/nowhere", "//"])
def test_everything_else_is_not_found(path: str) -> None:
    answer = call("GET", path, Worker(prefix="/realtime"))
    assert (answer.status, answer.body) == (404, b"Not found.")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/", "GET, HEAD"), ("GET", "/publish", "POST"), ("HEAD", "/publish", "POST")],
)
def test_wrong_method(method: str, path: str, allowed: str) -> None:
    answer = call(method, path, Worker())
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


def test_publish_reaches_the_worker() -> None:
    worker = Worker()
    answer = post(MESSAGE | {"app": "key2"}, worker)
    assert (answer.status, answer.json()) == (200, {})
    assert worker.published == [("key2", "try-hello", "greeting", '{"text": "Hello"}')]


def test_publish_below_the_prefix() -> None:
    worker = Worker(prefix="/realtime")
    answer = call("POST", "/realtime/publish", worker, json.dumps(MESSAGE).encode(), **FROM_THE_PAGE)
    assert answer.status == 200
    assert len(worker.published) == 1


def test_publish_without_app_and_data() -> None:
    worker = Worker()
    assert post({"channel": "try-hello", "event": "greeting"}, worker).status == 200
    assert worker.published == [("key1", "try-hello", "greeting", "")]


def test_what_the_worker_refuses_is_answered_with_its_status() -> None:
    answer = post(MESSAGE, Worker(failure=HttpError(503, "The bus is away.")))
    assert (answer.status, answer.json()) == (503, {"error": "The bus is away."})


@pytest.mark.parametrize(
    "changed",
    [
        {"HTTP_ORIGIN": ""},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_ORIGIN": "http://ws.example.com"},
        {"HTTP_ORIGIN": f"http://{HOST}.evil.example"},
        {"HTTP_ORIGIN": "http://["},
        {"HTTP_ORIGIN": f"file://{HOST}"},
        {"HTTP_HOST": ""},
        {"HTTP_ORIGIN": "http://", "HTTP_HOST": ""},
        {"HTTP_X_RESONATE_CONSOLE": ""},
        {"HTTP_X_RESONATE_CONSOLE": "0"},
    ],
)
def test_only_the_page_itself_may_publish(changed: dict[str, str]) -> None:
    worker = Worker()
    assert post(MESSAGE, worker, **changed).status == 403
    assert worker.published == []


def test_hosts_are_compared_whatever_their_case() -> None:
    assert post(MESSAGE, Worker(), HTTP_HOST=HOST.upper()).status == 200


@pytest.mark.parametrize("console", [None, Worker(apps=())])
def test_publishing_is_off_without_worker_or_apps(console: Worker | None) -> None:
    assert post(MESSAGE, console).status == 403


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE | {"channel": "orders"},
        MESSAGE | {"channel": "private-try-x"},
        MESSAGE | {"channel": "try-"},
        MESSAGE | {"channel": "try-a b"},
        MESSAGE | {"channel": "try-a\n"},
        MESSAGE | {"channel": "try-" + "x" * 197},
        MESSAGE | {"channel": ["try-hello"]},
        MESSAGE | {"event": ""},
        MESSAGE | {"event": "x" * 201},
        MESSAGE | {"event": "pusher:error"},
        MESSAGE | {"event": "pusher_internal:member_added"},
        MESSAGE | {"data": {"text": "Hello"}},
        MESSAGE | {"data": None},
        MESSAGE | {"data": "\ud800"},
        MESSAGE | {"app": "key3"},
        {},
        [],
        "try-hello",
    ],
)
def test_message_that_is_refused(message: object) -> None:
    worker = Worker()
    answer = post(message, worker)
    assert answer.status == 422
    assert answer.json()["error"]
    assert worker.published == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * MAX_BODY])
def test_body_that_is_not_json(body: bytes) -> None:
    assert post(body, Worker()).status == 400


def test_body_limit() -> None:
    room = MAX_BODY - len(json.dumps(MESSAGE | {"data": ""}))
    assert post(MESSAGE | {"data": "x" * room}, Worker()).status == 200
    assert post(MESSAGE | {"data": "x" * (room + 1)}, Worker()).status == 413


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("", 411),
        ("-1", 411),
        ("²", 411),
        ("9" * 5000, 413),
    ],
)
def test_length_that_is_no_length(length: str, status: str) -> None:
    assert call("POST", "/publish", Worker(), None, **FROM_THE_PAGE, CONTENT_LENGTH=length).status == status


def test_template_must_have_one_script_and_one_style() -> None:
    with pytest.raises(ValueError):
        StartPage("<style></style><script></script><script></script>")
