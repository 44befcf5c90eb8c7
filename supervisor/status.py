"""`resonate status`: what the master tells about its processes, and how it is shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from resonate.supervisor import control
from resonate.supervisor.process import Process, Role
from resonate.supervisor.roster import Roster

from resonate import __version__
from resonate.server.scoreboard import Row

HEAD: Final = ("ROLE", "SLOT", "GEN", "PID", "UPTIME", "CONNECTIONS", "MEMORY", "STATE")
_ORDER: Final = {"master": 0, "worker": 1, "shard": 2}
_TIMEOUT_S: Final = 10.0
_MIB: Final = 1024 * 1024

Status = dict[str, Any]

# --- in the master ---------------------------------------------------------------------------------------------------


def overview(
    roster: Roster,
    reported: Callable[[int], Row],
    *,
    pid: int,
    started_at: float,
    now: float,
    run_dir: str,
    listening: list[str],
) -> Status:
    """All but the memory, which takes long to find out: who asks does that. `reported`: what a worker has said last."""
    processes = [_process(process, reported, now) for process in roster.processes.values()]
    own: Status = {"role": "master", "slot": None, "generation": None, "pid": pid, "connections": None}
    own |= {"uptime_s": _whole(now - started_at), "state": _state(roster), "heir": None}
    return {
        "pid": pid,
        "version": __version__,
        "uptime_s": own["uptime_s"],
        "run_dir": run_dir,
        "listening": listening,
        "workers_wanted": roster.workers,
        "generation": roster.serving.number,
        "processes": sorted([own, *processes], key=_place),
    }


def _state(roster: Roster) -> str:
    if roster.stopping:
        return "stopping"
    if roster.neighbour is not None:
        return "in succession"
    return "reloading" if roster.reloading else "running"


def _place(entry: Status) -> tuple[int, int, int]:
    return _ORDER[entry["role"]], entry["slot"] or 0, entry["generation"] or 0


def _process(process: Process, reported: Callable[[int], Row], now: float) -> Status:
    counted = process.role is Role.WORKER
    return {
        "role": process.role.value,
        "slot": process.slot,
        "generation": process.generation,
        "pid": process.pid,
        "uptime_s": _whole(now - process.started_at),
        "connections": reported(process.pid).connections if counted else None,
        "state": process.state.value,
        "heir": process.heir or None,
    }


def _whole(seconds: float) -> float:
    return round(seconds, 1)


# --- in the command --------------------------------------------------------------------------------------------------


def collect(sockets: Iterable[Path], complain: Callable[[str], None]) -> list[Status]:
    """What the masters with these control sockets say; `complain` is told of those that do not answer."""
    found = []
    for path in sockets:
        try:
            status = control.ask(path, "status", _TIMEOUT_S)
        except FileNotFoundError:
            complain(f"{path.parent}: gunicorn's own master cannot be asked (there is no {path.name})")
            continue
        except (OSError, ValueError) as error:
            complain(f"a master does not answer: {path}: {error}")
            continue
        for entry in status["processes"]:
            entry["memory_bytes"] = memory(entry["pid"])
        found.append(status)
    return found


def memory(pid: int) -> int | None:
    """Bytes of memory: of pages that several processes share, each has its part. None when nobody may tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    kib = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(kib[1]) * 1024 if kib else None


def show(masters: Sequence[Status], as_json: bool) -> str:
    """For people or for machines."""
    if as_json:
        return json.dumps({"masters": masters})
    return "\n\n".join(_text(master) for master in masters)


def _text(master: Status) -> str:
    head = f"resonate {master['version']} at {', '.join(master['listening'])}, run directory {master['run_dir']}"
    return "\n".join([head, *table([HEAD, *(_row(entry) for entry in master["processes"])])])


def _row(entry: Status) -> tuple[str, ...]:
    return (
        entry["role"],
        _or_dash(entry["slot"]),
        _or_dash(entry["generation"]),
        str(entry["pid"]),
        duration(entry["uptime_s"]),
        _or_dash(entry["connections"]),
        "-" if entry["memory_bytes"] is None else f"{entry['memory_bytes'] / _MIB:.1f} MiB",
        entry["state"],
    )


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = {HEAD.index("ROLE"), HEAD.index("STATE")}
    return [
        "  ".join(
            cell.ljust(width) if index in words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """The two largest units: `12 s`, `3 min 20 s`, `5 h 2 min`, `2 d 7 h`."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def say(text: str) -> None:
    """To stderr, as the command does."""
    print(f"resonate: {text}", file=sys.stderr)
