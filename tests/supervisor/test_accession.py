"""The new master's side of a succession, where it is not the end of the old master that cuts the wire."""

from __future__ import annotations

import logging
import os
import selectors
import time
from pathlib import Path
from typing import Any

from resonate.supervisor.accession import PARTING_S, Accession, Heritage, Stage
from resonate.supervisor.generation import Phase
from resonate.supervisor.listeners import listen
from resonate.supervisor.succession import Office
from resonate.supervisor.wire import Wire

from resonate.scaling import Scaling
from resonate.version import PROTOCOL, VERSION
from tests.supervisor.world import World


def test_a_wire_that_is_cut_while_the_old_master_lives_does_not_make_the_new_one_serve(tmp_path: Path) -> None:
    old, new = Wire.pair()
    listeners = listen(f"unix:{tmp_path}/s", 0)
    letter = {
        "protocol": PROTOCOL,
        "version": VERSION,
        "master": os.getppid(),
        "wire": new.detach(),
        "directory": str(tmp_path),
        "metrics": None,
        "listeners": {**listeners.plain(), "shared": []},
        "server": {"bus_shards": 1},
        "scaling": Scaling().plain(),
        "generation": 2,
        "restarts": [],
        "workers": [],
    }
    world, selector, unused = World(), selectors.PollSelector(), None
    parts: list[Any] = [logging.getLogger("test"), world.roster, *[unused] * 5, selector, unused, unused]
    accession = Accession(Heritage(letter))
    accession.join(world.roster, 60)
    accession.begin(Office(*parts), 60)
    old.close()
    for key, _ in selector.select(1):
        key.data()
    now = time.monotonic()
    accession.look(now)
    assert accession.stage is Stage.WAITING
    accession.look(now + PARTING_S)
    assert accession.stage is Stage.WITHDRAWN
    assert not accession.in_charge
    assert world.roster.reload is not None
    assert world.roster.reload.phase is Phase.ROLLED_BACK
    assert not accession.stop()
    listeners.close()
    selector.close()
