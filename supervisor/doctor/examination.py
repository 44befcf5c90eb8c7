"""The checks, in the order in which they are made and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from resonate.supervisor.doctor import capacity, places, software
from resonate.supervisor.doctor.case import Case, Machine, Resident
from resonate.supervisor.doctor.certificate import certificate
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, warning
from resonate.supervisor.doctor.proxy import proxy
from resonate.supervisor.doctor.redis import redis

from resonate.errors import ConfigurationError
from resonate.settings import Settings

Check: TypeAlias = Callable[[Case], Iterable[Finding]]


@dataclass(frozen=True)
class Named:
    """A finding, and the check that has made it."""

    check: str
    finding: Finding


#: All but the first one, the configuration itself: these need one that can be read.
CHECKS: Final[Sequence[tuple[str, Check]]] = (
    ("packages", software.packages),
    ("event loop", software.loop),
    ("cores", capacity.cores),
    ("open files", capacity.open_files),
    ("accept queue", capacity.queue),
    ("local ports", capacity.local_ports),
    ("memory", capacity.memory),
    ("listening", places.ports),
    ("run directory", places.run_directory),
    ("certificate", certificate),
    ("proxy", proxy),
    ("redis", redis),
)


def examine(load: Callable[[], Settings], machine: Machine) -> Iterator[Named]:
    """Everything that is found, as it is found."""
    try:
        settings = load()
    except ConfigurationError as error:
        yield Named("configuration", problem(str(error), "the server cannot start with it", "correct it"))
        yield Named("everything else", note("was not looked at", "it depends on the configuration", "resonate doctor"))
        return
    yield from (Named("configuration", finding) for finding in _configuration(settings))
    residents = Resident.all(settings.server)
    incumbent = places.incumbent(machine, settings.server, residents)
    case = Case(machine=machine, settings=settings, residents=residents, incumbent=incumbent)
    for name, check in CHECKS:
        yield from (Named(name, finding) for finding in _made(check, case))


def _made(check: Check, case: Case) -> Iterator[Finding]:
    """A machine that hides something is no reason to look at nothing else."""
    try:
        yield from check(case)
    except (OSError, UnicodeError) as error:  # the latter: a name that can be none of a host
        yield note(f"could not be looked at: {error}")


def _configuration(settings: Settings) -> Iterator[Finding]:
    for notice in settings.notices:
        yield warning(notice, "the default holds, or what another source says", "correct it, or leave it out")
    apps = len(settings.apps)
    yield ok(f"can be used, with {apps} {'app' if apps == 1 else 'apps'}")
