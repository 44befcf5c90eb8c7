from __future__ import annotations

import os
import time

import pytest

from resonate.server.scoreboard import Restarts, Row, Scoreboard


def test_is_empty_at_first() -> None:
    board = Scoreboard(4)
    assert [board.row(row) for row in range(4)] == [Row()] * 4
    assert board.restarts == Restarts()
    assert board.connections() == 0


def test_a_report_changes_what_it_names_in_its_own_row() -> None:
    board = Scoreboard(3)
    board.report(1, ready=True, generation=2)
    board.report(1, connections=5)
    assert [board.row(row) for row in range(3)] == [Row(), Row(ready=True, connections=5, generation=2), Row()]


def test_clearing_a_row_leaves_the_others() -> None:
    board = Scoreboard(2)
    for row in range(2):
        board.report(row, ready=True, connections=row + 1, generation=1)
    board.clear(0)
    assert board.row(0) == Row()
    assert board.row(1) == Row(ready=True, connections=2, generation=1)
    assert board.connections() == 2


def test_restarts_have_a_row_of_their_own() -> None:
    board = Scoreboard(512)
    for row in range(512):
        board.report(row, ready=True, connections=2**40, generation=1)
    board.record(Restarts(workers=7, shards=3))
    assert board.restarts == Restarts(workers=7, shards=3)
    assert board.row(511).connections == 2**40
    assert board.connections() == 512 * 2**40


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_is_not_there(row: int) -> None:
    board = Scoreboard(2)
    for use in (board.row, board.clear, board.report, lambda row: board.name_heir(row, 7)):
        with pytest.raises(IndexError):
            use(row)


def test_an_heir_is_named_by_the_master_and_forgotten_with_the_worker() -> None:
    board = Scoreboard(2)
    board.name_heir(1, 4711)
    board.report(1, ready=True, connections=3, generation=2)
    assert board.row(1) == Row(ready=True, connections=3, generation=2, heir=4711)
    assert board.row(0).heir == 0
    assert board.connections() == 3
    board.clear(1)
    assert board.row(1) == Row()


def test_a_parent_names_what_its_child_reads() -> None:
    board = Scoreboard(4)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(board.row(3).heir)
    board.name_heir(3, 42)
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    os.close(reading)
    os.close(writing)


def test_a_child_writes_what_its_parent_reads() -> None:
    board = Scoreboard(300)
    pid = os.fork()
    if pid == 0:
        board.report(299, ready=True, connections=12)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.row(299) == Row(ready=True, connections=12)


def test_a_program_that_is_given_the_descriptor_shares_it() -> None:
    board = Scoreboard(4)
    other = Scoreboard(4, os.dup(board.descriptor))
    other.report(2, ready=True, connections=9)
    board.name_heir(2, 42)
    assert board.row(2) == other.row(2) == Row(ready=True, connections=9, heir=42)


def test_signs_of_life() -> None:
    board = Scoreboard(2)
    before = time.monotonic()
    assert board.heard_at(1) is None
    board.live(1)
    heard_at = board.heard_at(1)
    assert heard_at is not None
    assert before - 0.001 <= heard_at <= time.monotonic()
    assert board.heard_at(0) is None
    board.clear(1)
    assert board.heard_at(1) is None


def test_a_drain_is_known_to_all() -> None:
    board = Scoreboard(2)
    other = Scoreboard(2, os.dup(board.descriptor))
    assert not other.drained
    board.drain()
    assert other.drained
    assert (other.row(0), other.row(1), other.restarts) == (Row(), Row(), Restarts())


def test_who_serves_is_known_to_all() -> None:
    board = Scoreboard(2)
    other = Scoreboard(2, os.dup(board.descriptor))
    assert other.serving == 0
    board.serve(3)
    assert other.serving == 3
    assert (other.row(1), other.restarts, other.drained) == (Row(), Restarts(), False)
