"""Masters that leave no process behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.running import Running, Start


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def begin(**keys: Any) -> Running:
        # sockets lie in it, and their paths may not be long
        started.append(Running(Path(tempfile.mkdtemp(prefix="r")), **keys))
        return started[-1]

    yield begin
    for running in started:
        running.kill()
        shutil.rmtree(running.directory)
