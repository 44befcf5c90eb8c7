"""`resonate reload`: ask the master that runs here, show how it goes, and say what has come of it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from resonate.supervisor import control
from resonate.supervisor.control import Line
from resonate.supervisor.generation import Phase

from resonate.bus.directory import RunDirectory, alive, pid_of

#: What is added to the time that the master says it may take.
MARGIN_S: Final = 30.0
#: For the first word of an answer.
ANSWER_S: Final = 10.0

Say = Callable[[str], None]


class Failure(Exception):  # noqa: N818 - it is no error of the program
    """It has not been done; says why."""


def master(run_dir: str | None) -> RunDirectory:
    """The one that runs here. `run_dir` is where run directories are, or one of them. Raises Failure."""
    found = RunDirectory.masters(run_dir)
    if run_dir is not None and not found and _is_run_directory(Path(run_dir)):
        found = [RunDirectory(Path(run_dir).absolute())]
    if not found:
        raise Failure(f"no server runs here{f' ({run_dir})' if run_dir else ''}; start one with: resonate start")
    if len(found) > 1:
        listed = "".join(f"\n  --run-dir {directory.path}" for directory in found)
        raise Failure(f"several servers run here; say which one:{listed}")
    return found[0]


def _is_run_directory(path: Path) -> bool:
    directory = RunDirectory(path.absolute())
    return path.absolute().name.count("-") == 4 and path.is_dir() and alive(directory.master)


def reload(directory: RunDirectory, health_timeout_s: float | None, timeout_s: float | None, say: Say) -> str:
    """Have it reload; returns a summary. `say` is told how it goes. Raises Failure."""
    _check_ours(directory, "HUP")
    request: Line = {"command": "reload"}
    if health_timeout_s is not None:
        request["health_timeout"] = health_timeout_s
    patience = _Patience(timeout_s)
    try:
        for line in control.converse(directory.control, request, patience.left_s):
            if "ok" in line:
                return _summary(line)
            if "error" in line:  # of a version that cannot
                raise Failure(str(line["error"]))
            patience.heard(line)
            say(_told(line))
    except TimeoutError:
        raise Failure(f"not finished within {patience.given_s:g} s; it goes on, see: resonate status") from None
    except (OSError, ValueError) as error:
        raise Failure(f"the master does not answer: {error}") from None
    raise Failure("the master has gone before the reload was over")


class _Patience:
    """What was asked for; otherwise what the master says that it may take, from when it begins."""

    def __init__(self, given_s: float | None) -> None:
        self._fixed = given_s is not None
        self.given_s = ANSWER_S if given_s is None else given_s
        self._until = time.monotonic() + self.given_s
        self._phase = ""

    def heard(self, line: Line) -> None:
        """The master has said how far it is."""
        waits, waited = (phase in ("", "queued") for phase in (line["phase"], self._phase))
        if not self._fixed and (waits or waited):
            self.given_s = line["within_s"] + MARGIN_S
            self._until = time.monotonic() + self.given_s
        self._phase = line["phase"]

    def left_s(self) -> float:
        return self._until - time.monotonic()


def _told(line: Line) -> str:
    if line["phase"] == "queued":
        return "asked the server to reload"
    if line["phase"] == Phase.GATE.value:
        return f"generation {line['generation']}: {line['ready']} of {line['wanted']} workers ready"
    return (
        f"generation {line['generation']} serves; {line['old']} old workers left, "
        f"with {line['connections']} connections to hand over"
    )


def _summary(result: Line) -> str:
    if not result["ok"]:
        serves = result.get("phase") in ("refused", Phase.ROLLED_BACK.value)
        serving = f"; generation {result['generation']} serves on" if serves else ""
        raise Failure(f"not reloaded: {result['reason']}{serving}")
    return (
        f"reloaded in {result['took_s']:.1f} s: generation {result['generation']}, {_workers(result['workers'])}; "
        f"{result['connections']} connections were with the old ones"
    )


def drain(directory: RunDirectory, timeout_s: float | None) -> str:
    """Have it stop: no new connections, every client is told to go elsewhere. Waits for the end. Raises Failure."""
    _check_ours(directory, "TERM")
    try:
        process = os.pidfd_open(pid_of(directory.master))
    except OSError:
        raise Failure("the master has gone already") from None
    began = time.monotonic()
    try:
        said = control.ask(directory.control, "stop", ANSWER_S)
        if "error" in said:
            raise Failure(str(said["error"]))
        given_s = said["within_s"] + MARGIN_S if timeout_s is None else timeout_s
        if not select.select([process], [], [], given_s)[0]:
            raise Failure(f"not drained within {given_s:g} s; it goes on, see: resonate status")
    except (OSError, ValueError) as error:
        raise Failure(f"the master does not answer: {error}") from None
    finally:
        os.close(process)
    return f"drained in {time.monotonic() - began:.1f} s; the server has gone"


def _check_ours(directory: RunDirectory, signal_name: str) -> None:
    """gunicorn's own master has no control socket."""
    if not directory.control.exists():
        pid = pid_of(directory.master)
        raise Failure(f"gunicorn's own master runs here and cannot be asked; use: kill -{signal_name} {pid}")


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
