"""What a worker asks of its master."""

from __future__ import annotations

import json
import socket
import time
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from resonate.server.worker import AWAIT_S, Worker
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


def awaiting(*reasons: str) -> tuple[Any, Any]:
    """A worker that has just begun, and a service whose health is as told, one look after another; then as at last."""
    left = list(reasons)

    class Health:
        @property
        def reason(self) -> str:
            return left.pop(0) if len(left) > 1 else left[0]

    worker: Any = Worker.__new__(Worker)
    worker.alive = True
    return worker, SimpleNamespace(context=SimpleNamespace(health=Health()), left=left)


def test_nobody_is_accepted_before_the_shards_have_answered() -> None:
    worker, service = awaiting("shard 0 does not answer", "shard 0 does not answer", "", "it is not asked again")
    worker._await_shards(service)
    assert service.left == ["it is not asked again"]


def test_shards_that_do_not_answer_are_not_waited_for_long() -> None:
    worker, service = awaiting("shard 0 does not answer")
    began = time.monotonic()
    worker._await_shards(service)
    assert AWAIT_S <= time.monotonic() - began < AWAIT_S + 10


def test_who_has_to_stop_waits_for_no_shard() -> None:
    worker, service = awaiting("once", "shard 0 does not answer")
    worker.alive = False
    worker._await_shards(service)
    assert len(service.left) == 2, "nobody has looked"


def _answer(listening: socket.socket, answer: dict[str, Any]) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(json.dumps(answer).encode() + b"\n")
