from __future__ import annotations

import logging
import signal

import pytest
from resonate.supervisor.children import ending, obituary
from resonate.supervisor.process import Exit, Limits, Place, Process, Role


def gone(*, expected: bool = False, killed: bool = False, retry_in_s: float | None = 0.0) -> Exit:
    limits = Limits(graceful_timeout_s=1, worker_timeout_s=1)
    return Exit(Process(Place(Role.WORKER, 0, 1), 77, limits, started_at=0.0, since=0.0), expected, killed, retry_in_s)


@pytest.mark.parametrize(
    ("exit_", "status", "level", "words"),
    [
        (gone(), signal.SIGKILL, logging.ERROR, "Worker (pid:77) was sent SIGKILL! Perhaps out of memory?"),
        (
            gone(killed=True),
            signal.SIGKILL,
            logging.WARNING,
            "Worker (pid:77) was sent SIGKILL! It did not end in time.",
        ),
        (gone(), signal.SIGSEGV, logging.WARNING, "Worker (pid:77) was sent SIGSEGV!"),
        (gone(), signal.SIGTERM, logging.WARNING, "Worker (pid:77) was sent SIGTERM!"),
        (gone(expected=True), signal.SIGTERM, logging.INFO, "Worker (pid:77) was sent SIGTERM!"),
        (gone(), 40, logging.WARNING, "Worker (pid:77) was sent signal 40!"),
        (gone(), 3 << 8, logging.ERROR, "Worker (pid:77) exited with code 3."),
        (gone(), 0, logging.WARNING, "Worker (pid:77) has left by itself."),
        (
            gone(retry_in_s=4.0),
            1 << 8,
            logging.ERROR,
            "Worker (pid:77) exited with code 1. It ends again and again; next attempt in 4 s.",
        ),
    ],
)
def test_what_is_said_of_a_process_that_has_gone(exit_: Exit, status: int, level: int, words: str) -> None:
    assert obituary(exit_, status) == (level, words)


def test_nothing_is_said_of_one_that_went_as_it_was_told() -> None:
    assert obituary(gone(expected=True, retry_in_s=None), 0) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (signal.SIGKILL, "was sent SIGKILL"),
        (40, "was sent signal 40"),
        (3 << 8, "exited with code 3"),
        (0, "exited with code 0"),
    ],
)
def test_the_same_in_a_sentence(status: int, words: str) -> None:
    assert ending(status) == words
