"""How many clients this machine can have: open files, queues of the kernel, local ports, memory, cores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from resonate.supervisor.doctor.case import UNLIMITED, Case
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, size, warning
from resonate.supervisor.listeners import BACKLOG

from resonate.server.descriptors import KEPT, KEPT_FOR_SHARD

#: Descriptors that a worker has for itself, beside those that it keeps: sockets, pipes, the loop.
OWN: Final = 32
#: Clients that a worker should have room for, where nobody has said how many there may be.
ENOUGH_CLIENTS: Final = 10_000
#: The least that is worth asking an operator for.
ENOUGH_FILES: Final = 65_536
#: Of all files that the machine may open, in parts of one: from here on somebody else may take the last ones.
NEARLY_ALL: Final = 0.8
#: An idle connection: 1.3 KiB here, and what the kernel has for a socket. In bytes.
CONNECTION_BYTES: Final = 8 * 1024


def open_files(case: Case) -> Iterator[Finding]:
    """The limit of each process, and that of the machine."""
    server = case.settings.server
    soft, hard, whose = _limits(case)
    kept = KEPT + KEPT_FOR_SHARD * server.bus_shards + OWN
    clients = ENOUGH_CLIENTS if case.wanted is None else -(-case.wanted // server.workers)
    needed = clients + kept
    room = max(soft - kept, 0) * server.workers
    if soft >= needed:
        shown = "no limit of" if soft == UNLIMITED else f"{soft:,}"
        fitting = "" if soft == UNLIMITED else f": about {room:,} clients fit"
        yield ok(f"{shown} open files for {whose}{fitting}")
    else:
        target = max(ENOUGH_FILES, needed)
        tell = warning if case.wanted is None else problem
        yield tell(
            f"{soft:,} open files for {whose}: about {room:,} clients fit",
            "further ones hang until somebody leaves"
            if case.wanted is None
            else f"max_connections promises {case.wanted:,}",
            f"ulimit -n {target} in the shell that starts the server, or LimitNOFILE={target} in its unit"
            + (f" (root only: the hard limit is {hard:,})" if hard < target else ""),
        )
    yield from _all_files(case)


def _limits(case: Case) -> tuple[int, int, str]:
    """Soft, hard, and whose they are: what counts are those of the server, if it runs."""
    if case.incumbent is not None:
        try:
            text = (case.machine.proc / str(case.incumbent.master) / "limits").read_text()
        except OSError:
            text = ""
        if found := re.search(r"^Max open files +(\w+) +(\w+)", text, re.MULTILINE):
            soft, hard = (UNLIMITED if word == "unlimited" else int(word) for word in found.groups())
            return soft, hard, f"the server that runs here (pid {case.incumbent.master})"
    return *case.machine.open_files, "what is started from this shell"


def _all_files(case: Case) -> Iterator[Finding]:
    numbers = case.machine.kernel("fs/file-nr")
    if len(numbers) != 3:
        return
    taken, _, most = numbers
    if taken > NEARLY_ALL * most or taken + (case.wanted or 0) > most:
        yield warning(
            f"the whole machine has {taken:,} of {most:,} files open",
            "when they are all gone nobody can open one, this server included",
            f"sysctl -w fs.file-max={2 * most}",
        )


def queue(case: Case) -> Iterator[Finding]:
    """Connections that wait to be accepted."""
    numbers = case.machine.kernel("net/core/somaxconn")
    if not numbers:
        yield note("net.core.somaxconn cannot be read here")
    elif numbers[0] < BACKLOG:
        yield warning(
            f"net.core.somaxconn is {numbers[0]}, the server asks for {BACKLOG}",
            "after a restart all clients come at once: those that do not fit try again seconds later",
            "sysctl -w net.core.somaxconn=4096",
        )
    else:
        yield ok(f"net.core.somaxconn is {numbers[0]}")


def local_ports(case: Case) -> Iterator[Finding]:
    """Those that the kernel gives to connections by itself."""
    server = case.settings.server
    numbers = case.machine.kernel("net/ipv4/ip_local_port_range")
    if len(numbers) != 2 or server.host.startswith("unix:"):
        return
    first, last = numbers
    fine = True
    if first <= server.port <= last:
        fine = False
        yield warning(
            f"port {server.port} is among those that the kernel gives away ({first}-{last})",
            "a connection of any program may have it at the moment when the server starts",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={server.port}, or another port (REVERB_SERVER_PORT)",
        )
    count = last - first + 1
    if case.wanted is not None and case.wanted > count:
        fine = False
        yield warning(
            f"a proxy has {count:,} ports towards one address of the server, max_connections is {case.wanted:,}",
            "it cannot connect for more clients than that",
            "sysctl -w net.ipv4.ip_local_port_range='1024 65535' where the proxy is, several addresses, "
            'or host = "unix:/path"',
        )
    if fine:
        yield ok(f"{count:,} ports for a proxy towards one address ({first}-{last})")


def memory(case: Case) -> Iterator[Finding]:
    """What all connections take, against what there is."""
    available = _available(case)
    if available is None:
        yield note("how much is available cannot be read here")
        return
    if case.wanted is None:
        fitting = available // CONNECTION_BYTES
        yield ok(f"{size(available)} available: enough for {fitting:,} idle connections; max_connections is not set")
        return
    needed = case.wanted * CONNECTION_BYTES
    if needed > available:
        yield warning(
            f"{case.wanted:,} connections (max_connections) take {size(needed)}, {size(available)} are available",
            f"that is for idle ones; a slow one may hold up to max_send_buffer "
            f"({size(case.settings.server.max_send_buffer)}) more",
            "more memory, or a lower max_connections",
        )
    else:
        yield ok(f"{size(available)} available, {case.wanted:,} idle connections take {size(needed)}")


def _available(case: Case) -> int | None:
    try:
        text = (case.machine.proc / "meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    if found is None:
        return None
    available = int(found[1]) * 1024
    most, taken = case.machine.group("memory.max"), case.machine.group("memory.current")
    return min(available, max(most[0] - taken[0], 0)) if most and taken else available


def cores(case: Case) -> Iterator[Finding]:
    """Workers against cores, and against what the control group lets them have of these."""
    workers, there = case.settings.server.workers, case.machine.cores
    shown = f"{workers} {'worker' if workers == 1 else 'workers'}, {there} {'core' if there == 1 else 'cores'}"
    quota = case.machine.group("cpu.max")
    if quota and quota[0] < workers * quota[1] and workers > 1:
        share = quota[0] / quota[1]
        yield warning(
            f"{workers} workers may use as much as {share:g} cores (cpu.max)",
            "all are halted together when that is used up; `auto` counts cores, not what a container may have of them",
            f"RESONATE_WORKERS={max(int(share), 1)}",
        )
    elif workers > there:
        yield warning(
            shown, "a worker uses one core: more of them take turns and cost memory", f"RESONATE_WORKERS={there}"
        )
    elif workers < there:
        yield note(f"{shown}: the others are left to other programs", remedy="RESONATE_WORKERS=auto uses them all")
    else:
        yield ok(shown)
