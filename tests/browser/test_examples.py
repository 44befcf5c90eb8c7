"""The example sites, served by `gunicorn -k resonate.worker`, used as their readers use them: in two windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import APP
from tests.support.client import Client
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PASSWORDS = {"ada": "lovelace", "grace": "hopper", "guest": "guest"}
ENVIRONMENT = {
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key1",
    "REVERB_APP_SECRET": "secret1",
    "SECRET_KEY": "only-for-this-test",
    "DJANGO_SECRET_KEY": "only-for-this-test",
    "DJANGO_DEBUG": "1",
    "PUSHER_JS_URL": "/static/pusher.min.js",
    "PYTHONPATH": str(ROOT),
}
DJANGO_USERS = """
from django.contrib.auth.models import User
for name, password in {passwords}.items():
    User.objects.create_user(name, password=password, is_staff=name != "guest")
"""


@dataclass(frozen=True)
class Site:
    """An example: where it is, what gunicorn loads, and where it keeps its static files."""

    folder: str
    target: str
    static: str


SITES = {
    "flask": Site("flask_chat", "app:app", "static"),
    "django": Site("django_chat", "chat.wsgi", "chat/static"),
}


def copied(site: Site, directory: Path, node_modules: Path) -> Path:
    """The example in a directory of its own, with pusher-js among its static files."""
    shutil.copytree(EXAMPLES / site.folder, directory, ignore=shutil.ignore_patterns("__pycache__", "db.sqlite3"))
    shutil.copy(node_modules / "pusher-js" / "dist" / "web" / "pusher.min.js", directory / site.static)
    return directory


def django_database(directory: Path) -> None:
    """What the example's README does with manage.py; the users are those of the Flask example."""
    for words in (["migrate", "-v0"], ["shell", "-c", DJANGO_USERS.format(passwords=PASSWORDS)]):
        command = [sys.executable, "manage.py", *words]
        subprocess.run(command, cwd=directory, env={**os.environ, **ENVIRONMENT}, check=True, timeout=60)


def serve(site: Site, directory: Path) -> Server:
    # gunicorn's own --env, since the port is only known when the command is put together.
    words = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "--env", "REVERB_PORT={port}"]
    return Server(directory, apps=[APP], command=[*words, site.target], env=ENVIRONMENT)


@pytest.fixture(scope="module", params=SITES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, node_modules: Path
) -> Iterator[Server]:
    """Each of the example sites."""
    directory = copied(SITES[request.param], tmp_path_factory.mktemp("site") / "site", node_modules)
    if request.param == "django":
        django_database(directory)
    with serve(SITES[request.param], directory) as running:
        yield running


@pytest.fixture(scope="module")
def flask_site(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Iterator[Server]:
    with serve(
        SITES["flask"], copied(SITES["flask"], tmp_path_factory.mktemp("flask") / "site", node_modules)
    ) as running:
        yield running


def sign_in(page: Page, name: str, password: str = "") -> Page:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password or PASSWORDS[name])
    page.get_by_role("button", name="Sign in").click()
    return page


def joined(page: Page, channel: str) -> Locator:
    """The room of a channel, once the server has confirmed the subscription."""
    room = page.get_by_role("region", name=channel, exact=True)
    expect(room.locator("output")).to_have_text("joined")
    return room


POST = """async ([address, fields, withToken]) => (await fetch(address, {
    method: "POST", headers: withToken ? headers : {}, body: new URLSearchParams(fields) })).status"""


def address(site: Server, path: str) -> str:
    """Django's addresses end in a slash."""
    return path + "/" if (site.directory / "manage.py").exists() else path


def say(room: Locator, text: str) -> None:
    room.get_by_label("Message").fill(text)
    room.get_by_role("button", name="Send").click()


@pytest.mark.parametrize("channel", ["lobby", "private-staff"])
def test_message_written_in_one_window_appears_in_the_other(
    site: Server, window: Callable[..., Page], channel: str
) -> None:
    here = joined(sign_in(window(site.url), "ada"), channel)
    there = joined(sign_in(window(site.url), "grace"), channel)
    say(here, "Grüße, 世界 <b>&amp;</b>")
    expect(there.locator("li")).to_have_text("ada Grüße, 世界 <b>&amp;</b>")
    expect(here.get_by_label("Message")).to_have_value("")
    say(there, "And back")
    expect(here.locator("li")).to_have_text(["ada Grüße, 世界 <b>&amp;</b>", "grace And back"])
    expect(there.locator("li")).to_have_text(["ada Grüße, 世界 <b>&amp;</b>", "grace And back"])


def test_rooms_are_kept_apart(site: Server, window: Callable[..., Page]) -> None:
    ada, guest = sign_in(window(site.url), "ada"), sign_in(window(site.url), "guest")
    joined(guest, "lobby")
    say(joined(ada, "private-staff"), "among us")
    say(joined(ada, "lobby"), "for all")
    expect(guest.locator("li")).to_have_text("ada for all")
    expect(guest.get_by_role("region")).to_have_count(1)


def test_who_may_not_enter_gets_no_signature(site: Server, window: Callable[..., Page]) -> None:
    page = sign_in(window(site.url, tolerated="403"), "guest")
    joined(page, "lobby")
    refused = "new Promise((done) => pusher.subscribe('private-staff').bind('pusher:subscription_error', done))"
    assert page.evaluate(refused)["status"] == 403
    assert page.evaluate(POST, [address(site, "/messages"), {"room": "private-staff", "text": "forged"}, True]) == 403


def test_wrong_password(site: Server, window: Callable[..., Page]) -> None:
    page = sign_in(window(site.url, tolerated="403"), "ada", "wrong")
    expect(page.get_by_role("alert")).to_have_text("Name and password do not match.")


def test_signing_out_ends_the_session(site: Server, window: Callable[..., Page]) -> None:
    page = sign_in(window(site.url), "ada")
    joined(page, "lobby")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    page.goto(site.url)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("path", ["/messages", "/pusher/auth"])
def test_post_without_csrf_token_is_refused(site: Server, window: Callable[..., Page], path: str) -> None:
    page = sign_in(window(site.url, tolerated="403"), "ada")
    joined(page, "lobby")
    fields = {"room": "lobby", "text": "forged", "channel_name": "lobby", "socket_id": "1.1"}
    assert page.evaluate(POST, [address(site, path), fields, False]) == 403
    assert page.evaluate(POST, [address(site, path), fields, True]) in (200, 204)


def test_health_and_pages_of_the_site_share_one_connection(site: Server) -> None:
    connection = HTTPConnection(site.host, site.port, timeout=20)
    for path, status in [("/up", 200), ("/static/pusher.min.js", 200), ("/up", 200), ("/nowhere", 404), ("/up", 200)]:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert (path, answer.status) == (path, status)
    connection.close()


ECHO = """([messages, ...closing]) => new Promise((done, failed) => {
    const got = [], socket = new WebSocket(location.origin.replace("http", "ws") + "/echo");
    socket.onopen = () => messages.forEach((message) => socket.send(message));
    socket.onmessage = ({ data }) => { got.push(data); if (got.length === messages.length) socket.close(...closing); };
    socket.onclose = ({ code, reason, wasClean }) => done({ got, code, reason, wasClean });
    socket.onerror = failed;
})"""


def test_websocket_of_the_site_itself(flask_site: Server, window: Callable[..., Page]) -> None:
    page = window(flask_site.url)
    messages = ["Hello!", "Grüße, 世界", "", "x" * 70_000]
    answer = page.evaluate(ECHO, [messages, 1000])
    assert (answer["got"], answer["wasClean"]) == (messages, True)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1000, "bye"), (4321, "bye"), (4321, "x" * 123)])
def test_close_of_the_site_s_websocket_is_echoed(
    flask_site: Server, window: Callable[..., Page], code: int, reason: str
) -> None:
    answer = window(flask_site.url).evaluate(ECHO, [["Hello!"], code, reason])
    assert answer == {"got": ["Hello!"], "code": code, "reason": reason, "wasClean": True}


def test_websocket_of_the_site_beside_the_chat(flask_site: Server, window: Callable[..., Page]) -> None:
    page = sign_in(window(flask_site.url), "ada")
    room = joined(page, "private-staff")
    assert page.evaluate(ECHO, [["while the chat is open"]])["got"] == ["while the chat is open"]
    say(room, "still here")
    expect(room.locator("li")).to_have_text("ada still here")


@pytest.mark.parametrize("origin", ["", "Origin: http://evil.example\r\n"])
def test_websocket_from_another_site_is_refused(flask_site: Server, origin: str) -> None:
    with Client(flask_site.host, flask_site.port, "/echo", origin) as client:
        assert client.status == 403


def test_echo_without_websocket(flask_site: Server) -> None:
    connection = HTTPConnection(flask_site.host, flask_site.port, timeout=20)
    connection.request("GET", "/echo")
    assert connection.getresponse().status == 400
    connection.close()
