"""Windows of a real Chromium, each with a watch on what must not happen in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
NODE_MODULES = Path(__file__).parents[1] / "clients" / "node_modules"
# The official Python library takes only numbers for the id.
APP = {"app_id": "1001", "key": "key1", "secret": "secret1"}
WITHIN_MS = 20_000
expect.set_options(timeout=WITHIN_MS)


@dataclass
class Watch:
    """What a window did: messages of its console, uncaught errors, requests to hosts other than its own."""

    host: str
    tolerated: str
    complaints: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", lambda message: self._said(message.type, f"{message.text} ({message.location['url']})"))
        page.on("pageerror", lambda error: self._said("error", str(error)))
        page.on("request", lambda request: self._went(request.url))
        page.on("websocket", lambda socket: self._went(socket.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not (self.tolerated and re.search(self.tolerated, text)):
            self.complaints.append(f"{kind}: {text}")

    def _went(self, url: str) -> None:
        there = urlsplit(url)
        if there.scheme != "data" and there.netloc != self.host:
            self.complaints.append(f"request to another host: {url}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"the browser tests need {CHROMIUM}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens windows that share nothing, not even cookies; after the test none may have anything to complain of.

    `tolerated` is a pattern for console errors that the test provokes.
    """
    opened: list[tuple[Page, Watch]] = []

    def new(url: str, tolerated: str = "", **options: Any) -> Page:
        page = chromium.new_context(**options).new_page()
        page.set_default_timeout(WITHIN_MS)
        watch = Watch(urlsplit(url).netloc, tolerated)
        watch.follow(page)
        opened.append((page, watch))
        page.goto(url)
        return page

    yield new
    for page, _ in opened:
        page.context.close()
    assert [watch.complaints for _, watch in opened if watch.complaints] == []


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The real JavaScript clients, installed for tests/clients."""
    if not (NODE_MODULES / "pusher-js").is_dir():
        pytest.skip("run `npm ci` in tests/clients")
    return NODE_MODULES
