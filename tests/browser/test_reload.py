"""Reloads seen by pusher-js in Chromium: its connection does not stir, and every event comes once and in order."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.conftest import APP
from tests.support.cluster import Kind, hup, replaced, workers_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

RELOADS = 10
#: Events that are published during each, at least.
EVENTS = 20

SUBSCRIBE = """(port) => new Promise((done) => {
    window.seen = { states: [], numbers: [], unasked: [] };
    window.pusher = new Pusher("key1", {
        cluster: "", wsHost: location.hostname, wsPort: port, forceTLS: false, enabledTransports: ["ws"],
    });
    pusher.connection.bind("connected", () => {
        pusher.connection.bind("state_change", (change) => seen.states.push(change));
        pusher.connection.bind("error", (error) => seen.unasked.push(String(error)));
        const channel = pusher.subscribe("news");
        channel.bind("numbered", ({ n }) => seen.numbers.push(n));
        channel.bind("pusher:subscription_succeeded", () => done(pusher.connection.socket_id));
    });
})"""


@contextmanager
def stream(server: Server) -> Iterator[Callable[[], int]]:
    """Publishes numbers, one after another, until the end of the block; gives the function that tells how many."""
    count, stop, failures = itertools.count(), threading.Event(), list[str]()
    sent = 0

    def publish() -> None:
        nonlocal sent
        with closing(Rest(server.host, server.port, app=APP["app_id"])) as rest:
            while not stop.wait(0.005):
                answer = rest.publish("news", "numbered", json.dumps({"n": next(count)}))
                if answer.status != 200:
                    failures.append(f"{answer.status} {answer.body!r}")
                sent += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield lambda: sent
    finally:
        stop.set()
        thread.join(20)
    assert failures == []
    assert not thread.is_alive()


def test_ten_reloads(tmp_path: Path, window: Callable[..., Page], node_modules: Path) -> None:
    with Server(tmp_path, apps=[APP], command=Kind("own", 1).command(1)) as server:
        page = window(f"{server.url}/", bypass_csp=True)  # the start page lets in no script but its own
        page.add_script_tag(path=node_modules / "pusher-js" / "dist" / "web" / "pusher.min.js")
        socket_id = page.evaluate(SUBSCRIBE, server.port)
        with stream(server) as sent:
            for _ in range(RELOADS):
                old, before = workers_of(server), sent()
                hup(server)
                eventually(lambda: replaced(server, old, 1), within=60)  # noqa: B023 - called at once
                eventually(lambda: sent() >= before + EVENTS)  # noqa: B023
        page.wait_for_function("(count) => seen.numbers.length >= count", arg=sent())
        seen = page.evaluate("seen")
        assert seen["numbers"] == list(range(sent()))
        assert seen["states"] == seen["unasked"] == []
        assert page.evaluate("[pusher.connection.state, pusher.connection.socket_id]") == ["connected", socket_id]
        eventually(lambda: f"reload {RELOADS + 1} done" in server.log(), within=60)
        page.context.close()  # before it can complain that the server has gone
