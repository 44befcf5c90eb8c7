"""Where the server lives: its addresses, and its run directory."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from resonate.supervisor.address import check_address, resolve, text
from resonate.supervisor.doctor.case import Case, Machine, Resident
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, size, warning
from resonate.supervisor.doctor.holders import holders

from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.settings import Server

#: What the run directory's file system should have left: sockets are small, but each needs a name.
ENOUGH_BYTES: Final = 16 * 1024 * 1024
ENOUGH_NAMES: Final = 1000

_PORT: Final = "another port (--port, REVERB_SERVER_PORT)"
_METRICS: Final = "another port, or 0 for none (RESONATE_METRICS_PORT)"


# --- addresses -------------------------------------------------------------------------------------------------------


def incumbent(machine: Machine, server: Server, residents: Iterable[Resident]) -> Resident | None:
    """Which of our servers listens where the settings say."""
    try:
        there = holders(machine.proc, resolve(server.host, server.port)).keys()
    except ConfigurationError:
        return None
    return next((resident for resident in residents if there & resident.processes), None)


def ports(case: Case) -> Iterator[Finding]:
    """Whether somebody can listen at the two addresses, or we do already."""
    server = case.settings.server
    yield _port(case, "", server.host, server.port, _PORT)
    if not server.metrics_port:
        yield note("metrics are switched off", remedy="RESONATE_METRICS_PORT=9464 serves them to Prometheus")
        return
    found = _port(case, "metrics: ", server.metrics_host, server.metrics_port, _METRICS)
    if found.remedy:
        found = warning(found.what, "the server starts without its metrics then", found.remedy)
    yield found


def _port(case: Case, title: str, host: str, port: int, other: str) -> Finding:
    where = title + text(host, port)
    try:
        check_address(host, port, environ={})
    except ConfigurationError as error:
        try:
            found = holders(case.machine.proc, resolve(host, port))
        except ConfigurationError:  # the host is no address
            found = {}
        ours = next((resident for resident in case.residents if found.keys() & resident.processes), None)
        if ours is not None:
            return ok(f"{where}: our own server listens there (pid {ours.master})")
        if found.get(1) == "systemd":
            return ok(f"{where}: systemd listens there, and hands it down (socket activation)")
        if found:
            pid = min(found)
            return problem(
                f"{where}: another process listens there: {found[pid]} (pid {pid})",
                "the server cannot start beside it",
                f"stop it (kill {pid}), or {other}",
            )
        return problem(
            f"{where}: {error.reason}",
            "the server cannot start; if it is the server itself, this user may not see that",
            f"{other}, or resonate doctor as the user of the server",
        )
    return ok(f"{where}: nobody listens there")


# --- the run directory -----------------------------------------------------------------------------------------------


def run_directory(case: Case) -> Iterator[Finding]:
    """Whether one can be made, is safe, and has room for sockets."""
    parent = case.settings.server.run_dir
    try:
        above = RunDirectory.new_path(parent).parent
    except ConfigurationError as error:
        yield problem(f"run_dir: {error.reason}", "nothing can be started", "another run_dir (RESONATE_RUN_DIR)")
        return
    if not above.exists():
        yield _to_be_made(above)
        return
    if reason := _unusable(above):
        yield problem(
            f"no sockets can be made in {above}: {reason}",
            "processes of the server meet there",
            "another run_dir (RESONATE_RUN_DIR), or other rights for the user that this runs as",
        )
        return
    found = [*owned(above, above.stat(), case.machine.user), *_room(above)]
    yield from found or [ok(f"{above}")]


def _to_be_made(above: Path) -> Finding:
    """It is left to the server to make it: whoever asks here may be another user."""
    if os.access(above.parent, os.W_OK | os.X_OK):
        return ok(f"{above} will be made, with mode 0700")
    return problem(
        f"{above} cannot be made",
        "processes of the server meet there",
        f"mkdir -m 0700 {above}, for the user that the server runs as; or another run_dir (RESONATE_RUN_DIR)",
    )


def _unusable(above: Path) -> str:
    """Why nobody can listen on a socket in it, or nothing."""
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=above) as inner, socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{inner}/s")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def owned(above: Path, found: os.stat_result, user: int) -> Iterator[Finding]:
    """Whose it is, and who else may put things there."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield warning(
            f"{above} has mode {mode:04o}",
            "everybody may rename and remove what is in it",
            f"chmod 1777 {above}, or chmod 0700 if nobody else needs it",
        )
    elif found.st_uid not in (user, 0):
        yield warning(
            f"{above} belongs to user {found.st_uid}",
            "who may remove what is in it",
            f"another run_dir (RESONATE_RUN_DIR), or chown {user} {above}",
        )


def _room(above: Path) -> Iterator[Finding]:
    found = os.statvfs(above)
    names = found.f_favail if found.f_files else ENOUGH_NAMES  # some file systems have no number of them
    return room(above, found.f_bavail * found.f_frsize, names)


def room(above: Path, octets: int, names: int) -> Iterator[Finding]:
    """What is left on its file system: bytes and inodes."""
    if octets < ENOUGH_BYTES or names < ENOUGH_NAMES:
        tell = problem if not octets or not names else warning
        yield tell(
            f"the file system of {above} has {size(octets)} and {names:,} inodes left",
            "a process that has to be replaced cannot be, where no socket can be made",
            f"make room (df -h {above}; df -i {above}), or another run_dir (RESONATE_RUN_DIR)",
        )
