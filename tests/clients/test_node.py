"""The clients for Node.js: each case of the scripts is a test, run by Node in a process of its own."""

from __future__ import annotations

import pytest

from tests.clients.node import run_scenario, scenarios
from tests.support.server import Server


@pytest.mark.parametrize("scenario", scenarios("pusher_js.mjs"))
def test_pusher_js(server: Server, scenario: str) -> None:
    run_scenario(server, "pusher_js.mjs", scenario)


@pytest.mark.parametrize("scenario", scenarios("node_library.mjs"))
def test_node_library(server: Server, scenario: str) -> None:
    run_scenario(server, "node_library.mjs", scenario)


@pytest.mark.parametrize("scenario", scenarios("echo.mjs"))
@pytest.mark.parametrize("broadcaster", ["reverb", "pusher"])
def test_laravel_echo(server: Server, broadcaster: str, scenario: str) -> None:
    run_scenario(server, "echo.mjs", scenario, BROADCASTER=broadcaster)
