"""The start page in Chromium: its console in two windows, its snippets as they stand, its manners."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import APP
from tests.support.server import Server

CREDENTIALS = {"REVERB_APP_ID": "1001", "REVERB_APP_SECRET": "secret1"}
GUNICORN = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "resonate:app"]


@pytest.fixture(scope="module", params=["", "/realtime"], ids=["root", "prefix"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def site(prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the start page, at the root and below a path prefix."""
    options = {"path": prefix} if prefix else {}
    with Server(
        tmp_path_factory.mktemp("page"), apps=[APP], server=options, command=GUNICORN, up=f"{prefix}/up"
    ) as running:
        yield running


@pytest.fixture
def console(site: Server, prefix: str, window: Callable[..., Page]) -> Callable[[], Page]:
    """Opens the page in a window of its own and waits until it listens to try-hello."""

    def new() -> Page:
        return ready(window(f"{site.url}{prefix}/"))

    return new


def ready(page: Page) -> Page:
    expect(page.locator("#status")).to_have_attribute("data-state", "connected")
    expect(page.locator("#channels li:not(.waiting)")).not_to_have_count(0)
    return page


def subscribe(page: Page, channel: str) -> None:
    page.get_by_label("Channel", exact=True).fill(channel)
    page.get_by_role("button", name="Subscribe", exact=True).click()


def publish(page: Page, channel: str, event: str, data: str) -> None:
    page.get_by_label("Publish to").fill(channel)
    page.get_by_label("Event").fill(event)
    page.get_by_label("Data").fill(data)
    page.get_by_role("button", name="Publish", exact=True).click()


def received(page: Page, event: str) -> Locator:
    """The rows of frames that came in with this event."""
    return page.locator("#frames .in", has=page.locator(".name", has_text=re.compile(f"^{re.escape(event)}$")))


def snippet(page: Page, tab: str) -> str:
    page.get_by_role("tab", name=tab).click()
    selected = page.get_by_role("tab", name=tab).get_attribute("aria-controls")
    return str(page.locator(f"#{selected} pre").text_content())


def test_published_in_one_window_seen_in_the_other(console: Callable[[], Page]) -> None:
    here, there = console(), console()
    publish(here, "try-hello", "greeting", '{"text": "Grüße, 世界 <b>"}')
    for page in (here, there):
        expect(received(page, "greeting")).to_contain_text('try-hello {"text": "Grüße, 世界 <b>"}')
    assert here.locator("#status").inner_text() != there.locator("#status").inner_text()


def test_frame_opens_to_show_what_was_on_the_wire(console: Callable[[], Page]) -> None:
    page = console()
    row = received(page, "pusher:connection_established")
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text('"event": "pusher:connection_established"')
    expect(page.locator("#frames .out")).to_contain_text('pusher:subscribe {"channel":"try-hello"}')


def test_window_sees_only_the_channels_it_is_subscribed_to(console: Callable[[], Page]) -> None:
    here, there = console(), console()
    there.get_by_role("button", name="Unsubscribe from try-hello").click()
    subscribe(there, "try-other")
    expect(there.locator("#channels li:not(.waiting)")).to_have_text(re.compile("try-other"))
    publish(here, "try-hello", "not-for-you", "1")
    expect(received(here, "not-for-you")).to_have_count(1)
    publish(here, "try-other", "for-you", "2")
    expect(received(there, "for-you")).to_have_count(1)
    expect(received(there, "not-for-you")).to_have_count(0)
    expect(received(here, "for-you")).to_have_count(0)


@pytest.mark.parametrize("channel", ["private-orders", "presence-room"])
def test_private_channels_are_explained_not_tried(console: Callable[[], Page], channel: str) -> None:
    page = console()
    subscribe(page, channel)
    expect(page.locator("#subscribe-hint")).to_contain_text("auth endpoint")
    expect(page.locator("#channels li")).to_have_count(1)


def test_publishing_elsewhere_is_explained(console: Callable[[], Page]) -> None:
    page = console()
    publish(page, "orders", "greeting", "{}")
    expect(page.locator("#publish-hint")).to_contain_text("try-")


def test_server_refuses_what_the_page_would_not_send(site: Server, prefix: str, window: Callable[..., Page]) -> None:
    page = ready(window(f"{site.url}{prefix}/", tolerated="422|403|413"))
    post = """async ([path, channel, console, data]) => (await fetch(path, {
        method: "POST", headers: console ? { "X-Resonate-Console": "1" } : {},
        body: JSON.stringify({ channel, event: "e", data }) })).status"""
    path = f"{prefix}/publish"
    assert page.evaluate(post, [path, "orders", True, "1"]) == 422
    assert page.evaluate(post, [path, "try-hello", False, "1"]) == 403
    assert page.evaluate(post, [path, "try-hello", True, "x" * 5000]) == 413
    assert page.evaluate(post, [path, "try-hello", True, "1"]) == 200


def test_disconnect_and_connect_again(console: Callable[[], Page]) -> None:
    here, there = console(), console()
    here.get_by_role("button", name="Disconnect").click()
    expect(here.locator("#status")).to_have_text("Disconnected")
    publish(there, "try-hello", "missed", "1")
    expect(received(there, "missed")).to_have_count(1)
    here.get_by_role("button", name="Connect", exact=True).click()
    ready(here)
    publish(there, "try-hello", "seen", "2")
    expect(received(here, "seen")).to_have_count(1)
    expect(received(here, "missed")).to_have_count(0)


def test_clear_empties_the_log(console: Callable[[], Page]) -> None:
    page = console()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#frames details")).to_have_count(0)
    expect(page.locator("#count")).to_have_text("No frames yet")


def test_addresses_are_those_of_the_server(console: Callable[[], Page], site: Server, prefix: str) -> None:
    page = console()
    expect(page.locator("#ws-url")).to_have_text(f"ws://127.0.0.1:{site.port}{prefix}/app/key1")
    expect(page.locator("#rest-url")).to_have_text(f"{site.url}{prefix}/apps/{{app id}}/events")
    expect(page.locator("#up-url")).to_have_attribute("href", f"{site.url}{prefix}/up")
    assert page.request.get(f"{site.url}{prefix}/up").json() == {"health": "OK"}


def test_secret_is_nowhere_on_the_page(console: Callable[[], Page]) -> None:
    page = console()
    assert "secret1" not in page.content()


def test_tabs_follow_the_arrow_keys(console: Callable[[], Page]) -> None:
    page = console()
    page.get_by_role("tab", name="Python").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Laravel", exact=True)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="curl")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("width", [320, 400, 900, 1600])
def test_page_never_scrolls_sideways(site: Server, prefix: str, window: Callable[..., Page], width: int) -> None:
    page = ready(window(f"{site.url}{prefix}/", viewport={"width": width, "height": 800}))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("tab", "command"), [("Python", [sys.executable, "-"]), ("curl", ["bash", "-eu"])])
def test_publishing_snippets_work_as_they_stand(console: Callable[[], Page], tab: str, command: list[str]) -> None:
    page = console()
    text = snippet(page, tab)
    subprocess.run(command, input=text, text=True, env={**os.environ, **CREDENTIALS}, check=True, timeout=30)
    expect(received(page, "greeting")).to_contain_text("Hello!")


def test_copy_puts_the_snippet_on_the_clipboard(site: Server, prefix: str, window: Callable[..., Page]) -> None:
    page = window(f"{site.url}{prefix}/", permissions=["clipboard-read", "clipboard-write"])
    text = snippet(page, "Laravel Echo")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(1)
    assert page.evaluate("navigator.clipboard.readText()") == text


NODE_SUBSCRIBED = {
    "pusher-js": "pusher.channel('try-hello').bind('pusher:subscription_succeeded', () => console.log('subscribed'));",
    "Laravel Echo": "window.Echo.channel('try-hello').subscribed(() => console.log('subscribed'));",
}


@pytest.mark.parametrize("tab", NODE_SUBSCRIBED)
def test_receiving_snippets_work_as_they_stand(console: Callable[[], Page], node_modules: Path, tab: str) -> None:
    page = console()
    program = f"globalThis.window = globalThis;\n{snippet(page, tab)}\n{NODE_SUBSCRIBED[tab]}"
    node = subprocess.Popen(
        ["node", "--input-type=module", "-e", program], cwd=node_modules.parent, stdout=subprocess.PIPE, text=True
    )
    assert node.stdout
    try:
        assert node.stdout.readline() == "subscribed\n"
        publish(page, "try-hello", "greeting", '{"text": "Hello!"}')
        assert node.stdout.readline() == "{ text: 'Hello!' }\n"
    finally:
        node.kill()
        node.communicate()


def test_page_comes_back_by_itself_after_its_worker_has_died(
    start: Callable[..., Server], window: Callable[..., Page]
) -> None:
    server = start(command=GUNICORN)
    page = ready(window(f"{server.url}/", tolerated="WebSocket"))
    connection = page.locator("#status span")
    before = connection.inner_text()
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
    expect(connection).not_to_have_text(before)
    ready(page)
    expect(connection).not_to_have_text(before)
    publish(page, "try-hello", "again", "1")
    expect(received(page, "again")).to_have_count(1)


def test_refusal_is_final_and_says_why(start: Callable[..., Server], window: Callable[..., Page]) -> None:
    app = {**APP, "allowed_origins": ["app.example.com"]}
    page = window(f"{start(command=GUNICORN, apps=[app]).url}/")
    expect(page.locator("#status")).to_have_text("Refused")
    expect(received(page, "pusher:error")).to_contain_text("Origin not allowed")


def test_console_can_be_switched_off(start: Callable[..., Server], window: Callable[..., Page]) -> None:
    server = start(command=GUNICORN, server={"console": False})
    page = window(f"{server.url}/", tolerated="403")
    expect(page.get_by_role("heading", level=1)).to_have_text("Resonate is running.")
    expect(page.locator("#console")).to_be_hidden()
    assert "key1" not in page.content()
    post = """async () => (await fetch("/publish", { method: "POST", headers: { "X-Resonate-Console": "1" },
        body: JSON.stringify({ app: "key1", channel: "try-hello", event: "e", data: "1" }) })).status"""
    assert page.evaluate(post) == 403


def test_page_of_resonate_start(start: Callable[..., Server], window: Callable[..., Page]) -> None:
    page = ready(window(f"{start().url}/"))
    publish(page, "try-hello", "greeting", "1")
    expect(received(page, "greeting")).to_have_count(1)


def test_apps_can_be_chosen(start: Callable[..., Server], window: Callable[..., Page]) -> None:
    apps = [{"app_id": f"app{n}", "key": f"key{n}", "secret": f"secret{n}"} for n in (1, 2)]
    server = start(command=GUNICORN, apps=apps)
    here, there = ready(window(f"{server.url}/")), ready(window(f"{server.url}/"))
    here.get_by_label("App key").select_option("key2")
    expect(here.locator("#ws-url")).to_have_text(re.compile("/app/key2$"))
    ready(here)
    publish(here, "try-hello", "in-two", "1")
    expect(received(here, "in-two")).to_have_count(1)
    publish(there, "try-hello", "in-one", "1")
    expect(received(there, "in-one")).to_have_count(1)
    expect(received(there, "in-two")).to_have_count(0)
    expect(received(here, "in-one")).to_have_count(0)
