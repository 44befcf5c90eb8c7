"""A worker is killed and another one added: connections move until all have about the same, and nobody notices.

The full size is `make balance`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bench import balance

SMALL = {"clients": 400, "channels": 24, "rate": 60, "workers": 3, "log": True}
CASES = {
    "own": {"master": "own", "shards": 2, "off": False},
    "gunicorn": {"master": "gunicorn", "shards": 1, "off": False},
    "off": {"master": "own", "shards": 1, "off": True},
}


def run(case: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="b") as directory:
        return balance.run(argparse.Namespace(**SMALL, **CASES[case]), Path(directory))


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """All at a time: most of it is waiting for the next look."""
    with ThreadPoolExecutor(len(CASES)) as pool:
        yield {case: pool.submit(run, case) for case in CASES}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_nobody_else_notices(case: str, outcomes: dict[str, Future[dict[str, Any]]]) -> None:
    found = outcomes[case].result()
    assert found["wrong"] == {}, found["examples"]
    assert found["killed"] > 0
    assert found["deliveries"] > 1000


@pytest.mark.parametrize("case", ["own", "gunicorn"])
def test_workers_have_about_the_same(case: str, outcomes: dict[str, Future[dict[str, Any]]]) -> None:
    found = outcomes[case].result()
    assert len(found["after"]) == 4
    assert balance.even(found["after"]), found
    moved = sum(int(move.split()[1]) for move in found["moves"])
    assert found["counted"] == {"balance": moved, "retirement": 0}
    assert moved > 0


def test_status_shows_it(outcomes: dict[str, Future[dict[str, Any]]]) -> None:
    assert balance.even(outcomes["own"].result()["status"])


def test_switched_off_nobody_moves(outcomes: dict[str, Future[dict[str, Any]]]) -> None:
    found = outcomes["off"].result()
    assert not balance.even(found["after"])
    assert (found["moves"], found["counted"]) == ([], {"balance": 0, "retirement": 0})
