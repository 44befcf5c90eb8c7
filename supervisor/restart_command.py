"""`resonate restart`: have the server that runs here started anew, and those on other hosts that watch the same key."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

from resonate.supervisor import control
from resonate.supervisor.control import Line
from resonate.supervisor.reload_command import ANSWER_S, MARGIN_S, Failure, Say

from resonate.bus.directory import RunDirectory, pid_of
from resonate.errors import ResonateError
from resonate.settings import Server

#: How long a worker may be looking at the restart key just now, and when that is tried again, in seconds.
LOOK_S: Final = 10.0
AGAIN_S: Final = 0.05

_PHASES: Final = {
    "checking": "checking the configuration and the package",
    "stopping": "closing the connections",
    "starting": "starting anew",
}


def restart(directory: RunDirectory, server: Server | None, timeout_s: float | None, say: Say) -> str:
    """Have it restart; returns a summary. `say` is told how it goes. Raises Failure.

    `server` are the settings; where they name a restart key, it is set for the servers of other hosts.
    """
    ours, patience = directory.control.exists(), _Patience(timeout_s)
    if ours:
        _converse(directory, {"command": "restart", "check": True}, patience, say)
    trouble = _set_key(directory, server, say) if server is not None and server.watches_restarts else ""
    summary = _restarted(directory, patience, say) if ours else _signalled(directory)
    if trouble:
        raise Failure(f"{summary}; but other servers could not be told: {trouble}")
    return summary


def _restarted(directory: RunDirectory, patience: _Patience, say: Say) -> str:
    result = _converse(directory, {"command": "restart"}, patience, say)
    workers = "1 worker serves" if result["workers"] == 1 else f"{result['workers']} workers serve"
    return f"restarted in {result['took_s']:.1f} s: {workers}"


def _signalled(directory: RunDirectory) -> str:
    """gunicorn's own master has no control socket, and no restart either."""
    pid = pid_of(directory.master)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise Failure(f"gunicorn's master (pid {pid}) cannot be told: {error.strerror}") from None
    return f"gunicorn's master (pid {pid}) was told to reload (SIGHUP); to end it is for what has started it"


def _converse(directory: RunDirectory, request: Line, patience: _Patience, say: Say) -> Line:
    try:
        for line in control.converse(directory.control, request, patience.left_s):
            if "error" in line:  # of a version that cannot
                raise Failure(str(line["error"]))
            if "ok" in line:
                if not line["ok"]:
                    raise Failure(f"not restarted: {line['reason']}")
                return line
            patience.heard(line)
            say(_PHASES.get(line["phase"], str(line["phase"])))
    except TimeoutError:
        raise Failure(f"not restarted within {patience.given_s:g} s; see: resonate status") from None
    except (OSError, ValueError) as error:
        raise Failure(f"the master does not answer: {error}") from None
    raise Failure("the server has gone; its log says why")


class _Patience:
    """What was asked for, for all of it; otherwise, for each thing, what the master says that it may take."""

    def __init__(self, given_s: float | None) -> None:
        self._fixed = given_s is not None
        self.given_s = ANSWER_S if given_s is None else given_s
        self._until = time.monotonic() + self.given_s

    def heard(self, line: Line) -> None:
        """The master has said what it does now."""
        if not self._fixed:
            self.given_s = line["within_s"] + MARGIN_S
            self._until = time.monotonic() + self.given_s

    def left_s(self) -> float:
        return self._until - time.monotonic()


def _set_key(directory: RunDirectory, server: Server, say: Say) -> str:
    """Set it, unnoticed by the server that runs here: it is told otherwise. Returns what has gone wrong, or nothing."""
    from resonate.bus.restart_key import RestartKey  # who has no Redis does not wait for its library
    from resonate.bus.restart_watch import unnoticed

    key = RestartKey(server)
    until = time.monotonic() + LOOK_S
    try:
        while time.monotonic() < until:
            with unnoticed(directory) as note:
                if note is not None:
                    note(key.write(int(time.time())))
                    say(f"told other servers, in {key.place}")
                    return ""
            time.sleep(AGAIN_S)
    except ResonateError as error:
        return str(error)
    except OSError as error:
        return f"{directory.path} cannot be used: {error.strerror}"
    finally:
        key.close()
    return f"a worker has looked at the key for more than {LOOK_S:g} s"
