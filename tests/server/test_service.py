"""What a worker says of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from resonate.scaling import Scaling
from resonate.server.scoreboard import Scoreboard
from resonate.server.service import Service, Shared, Slot
from resonate.settings import Server, Settings
from tests.bus.support import Place, Turns
from tests.server.support import APP, Nobody

LOG = logging.getLogger("test")


@pytest.mark.parametrize(("own", "goes"), [(1, False), (2, True), (None, False)])
def test_an_heir_in_the_gate_is_given_nothing(own: int | None, goes: bool) -> None:
    """Generation 1 serves. Under gunicorn (None) that cannot be told."""
    board, turns = Scoreboard(1), Turns()
    board.serve(1)
    slot = None if own is None else Slot(board, 0, own)
    settings, loop = Settings(server=Server(), apps=(APP,)), turns.loop
    with Place() as place:
        shared = Shared(place.directory, None, 1, Scaling())
        made: Any = Service(loop, LOG, settings, shared, Nobody(), 75, sharded=False, starter=None, slot=slot)
        made._membership.beat({})
        said = [made._counted()["leaving"]]
        if own is not None:
            board.serve(2)
            said.append(made._counted()["leaving"])
        made._membership.close()
        made._descriptors.close()
    turns.close()
    assert said[0] is goes
    assert own is None or said[1] is not goes
