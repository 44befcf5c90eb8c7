"""What a worker asks of its master."""

from __future__ import annotations

import json
import socket
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from resonate.server.worker import Worker
from tests.bus.support import Place


@pytest.mark.parametrize("refused", [True, False])
def test_a_restart_that_is_refused_at_once_is_not_done(refused: bool) -> None:
    answer = {"ok": False, "reason": "one master follows another"} if refused else {"phase": "checking"}
    worker: Any = Worker.__new__(Worker)
    with Place() as place, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.directory.control))
        listening.listen()
        worker.app = SimpleNamespace(shared=SimpleNamespace(directory=place.directory))
        master = Thread(target=_answer, args=(listening, answer))
        master.start()
        if refused:
            with pytest.raises(ValueError, match="the master refuses: one master follows another"):
                worker.restart()
        else:
            worker.restart()
        master.join()


def _answer(listening: socket.socket, answer: dict[str, Any]) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(json.dumps(answer).encode() + b"\n")
