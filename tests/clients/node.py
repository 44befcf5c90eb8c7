"""Runs the scripts of this folder with Node.js against a server of the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.server import Server

HERE = Path(__file__).parent
MASTER_KEY = "bm9ib2R5IGJ1dCB0aGUgY2xpZW50cyBrbm93cyB0aGk="  # end-to-end encryption: the server never sees it
SCENARIO_S = 60.0
RETURN_S = 120.0  # pusher-js sits out 15 s after a refused TCP connection, then 30 s


def node() -> str:
    """The path of Node.js. Fails the test when it or the clients are missing: a skipped client would go unnoticed."""
    found = shutil.which("node")
    if found is None or not (HERE / "node_modules").is_dir():
        pytest.fail("Node.js (20.19 or later) or tests/clients/node_modules is missing: run make test-deps")
    return found


def scenarios(script: str) -> list[str]:
    """The names of the cases in a script, read from its text: collecting must not need Node.js."""
    return re.findall(r'^test\("([^"]+)"', (HERE / script).read_text(), re.MULTILINE)


def environment(server: Server, app_id: str, key: str) -> dict[str, str]:
    """What support.mjs reads: where the server is, and the app that its clients belong to."""
    return {
        **os.environ,
        "PUSHER_HOST": server.host,
        "PUSHER_PORT": str(server.port),
        "PUSHER_APP_ID": app_id,
        "PUSHER_APP_KEY": key,
        "PUSHER_APP_SECRET": "secret1",
        "PUSHER_MASTER_KEY": MASTER_KEY,
    }


def run_scenario(server: Server, script: str, name: str, **env: str) -> None:
    """Run one case of a script; fails with what Node's test runner says."""
    pattern = f"--test-name-pattern=^{re.escape(name)}$"
    done = subprocess.run(  # forced to exit: the WebSocket of pusher-js keeps a timer of 30 s when closed twice
        [node(), "--test-reporter=spec", "--test-force-exit", pattern, script],
        cwd=HERE,
        env={**environment(server, "app1", "key1"), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SCENARIO_S,
        check=False,
    )
    if done.returncode != 0 or "pass 1\n" not in done.stdout:
        pytest.fail(f"{script}: {name}\n{done.stdout}", pytrace=False)


class Watcher:
    """A pusher-js in a process of its own and its reports; `options` are those of watch.mjs and of pusher-js."""

    def __init__(
        self, server: Server, directory: Path, *, app_id: str = "app1", key: str = "key1", **options: Any
    ) -> None:
        self._path = directory / "watch.jsonl"
        self._taken: set[int] = set()
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                [node(), "watch.mjs", json.dumps(options)],
                cwd=HERE,
                env=environment(server, app_id, key),
                stdout=output,
            )

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def reports(self) -> list[dict[str, Any]]:
        """All that has been reported so far."""
        complete, _, _ = self._path.read_text().rpartition("\n")
        return [json.loads(line) for line in complete.splitlines()]

    def expect(self, **wanted: Any) -> dict[str, Any]:
        """Take the first report that holds these values; a report is taken once. Waits for it."""
        try:
            return eventually(lambda: self._take(wanted) or {}, within=RETURN_S)
        except AssertionError:
            pytest.fail(f"no report of {wanted}; there were:\n{self._path.read_text()}")

    def ended(self) -> list[dict[str, Any]]:
        """All reports, once the client has given up and its process has ended."""
        assert self.process.wait(RETURN_S) == 0, self._path.read_text()
        return self.reports()

    def _take(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        for number, report in enumerate(self.reports()):
            if number not in self._taken and wanted.items() <= report.items():
                self._taken.add(number)
                return report
        return None
