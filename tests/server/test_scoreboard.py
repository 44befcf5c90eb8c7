from __future__ import annotations

import os

import pytest

from resonate.server.scoreboard import Restarts, Row, Scoreboard


def test_is_empty_at_first() -> None:
    board = Scoreboard(4)
    assert [board.row(slot) for slot in range(4)] == [Row()] * 4
    assert board.restarts == Restarts()
    assert board.connections() == 0


def test_a_report_changes_what_it_names_in_its_own_row() -> None:
    board = Scoreboard(3)
    board.report(1, ready=True, generation=2)
    board.report(1, connections=5)
    assert [board.row(slot) for slot in range(3)] == [Row(), Row(ready=True, connections=5, generation=2), Row()]


def test_clearing_a_row_leaves_the_others() -> None:
    board = Scoreboard(2)
    for slot in range(2):
        board.report(slot, ready=True, connections=slot + 1, generation=1)
    board.clear(0)
    assert board.row(0) == Row()
    assert board.row(1) == Row(ready=True, connections=2, generation=1)
    assert board.connections() == 2


def test_restarts_have_a_row_of_their_own() -> None:
    board = Scoreboard(512)
    for slot in range(512):
        board.report(slot, ready=True, connections=2**40, generation=1)
    board.record(Restarts(workers=7, shards=3))
    assert board.restarts == Restarts(workers=7, shards=3)
    assert board.row(511).connections == 2**40
    assert board.connections() == 512 * 2**40


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_is_not_there(slot: int) -> None:
    board = Scoreboard(2)
    for use in (board.row, board.clear, board.report):
        with pytest.raises(IndexError):
            use(slot)


def test_a_child_writes_what_its_parent_reads() -> None:
    board = Scoreboard(300)
    pid = os.fork()
    if pid == 0:
        board.report(299, ready=True, connections=12)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.row(299) == Row(ready=True, connections=12)
