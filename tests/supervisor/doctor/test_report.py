"""All checks together, and how they are shown."""

from __future__ import annotations

import json
from dataclasses import replace

from resonate.supervisor.doctor.case import Machine
from resonate.supervisor.doctor.examination import CHECKS, Named, examine
from resonate.supervisor.doctor.findings import note, ok, problem, size, warning
from resonate.supervisor.doctor.report import as_json, as_text, status

from resonate.errors import ConfigurationError
from resonate.settings import AppOptions, Server, Settings
from tests.supervisor.doctor.cases import APP
from tests.support.server import free_port

GOOD = Named("one", ok("fine"))
NOTE = Named("two", note("not looked at"))
WARNING = Named("three", warning("nearly full", "it will be", "make room"))
PROBLEM = Named("longest", problem("full", "x " * 100, "a command that is long " * 10))


def test_only_a_problem_is_a_failure() -> None:
    assert status([GOOD, NOTE, WARNING]) == 0
    assert status([GOOD, PROBLEM]) == 1


def test_as_text() -> None:
    _, empty, *lines, gap, total = as_text([GOOD, NOTE, WARNING, PROBLEM]).splitlines()
    assert (empty, gap, total) == ("", "", "1 problem, 1 warning")
    assert lines[:5] == [
        "ok       one      fine",
        "note     two      not looked at",
        "warning  three    nearly full",
        "                  why: it will be",
        "                  do:  make room",
    ]
    assert all(len(line) <= 110 for line in lines[:-1])
    assert lines[-1].endswith("do:  " + "a command that is long " * 10)  # to be copied


def test_as_json() -> None:
    plain = json.loads(as_json([GOOD, WARNING]))
    assert (plain["problems"], plain["warnings"]) == (0, 1)
    assert plain["findings"][1] == {
        "check": "three",
        "level": "warning",
        "what": "nearly full",
        "why": "it will be",
        "remedy": "make room",
    }


def test_size() -> None:
    assert [size(number) for number in (17, 2048, 5 * 1024**2, 3 * 1024**3)] == [
        "17 bytes",
        "2.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


def test_every_check_says_something_and_no_secret() -> None:
    settings = Settings(server=Server(port=free_port(), metrics_port=0), apps=(APP,), notices=("what is misspelt",))
    found = list(examine(lambda: settings, Machine.here()))
    assert {named.check for named in found} >= {"configuration", *(name for name, _ in CHECKS)}
    assert found[0].finding.what == "what is misspelt"
    assert APP.secret not in as_text(found)


def test_a_host_that_can_be_none() -> None:
    """A name of which a part is empty; the other checks go on."""
    app = replace(APP, options=AppOptions(host="ws..example.com"))
    settings = Settings(server=Server(port=free_port(), host="127.0.0.1", metrics_port=0), apps=(app,))
    found = list(examine(lambda: settings, Machine.here()))
    assert [named.finding.level.value for named in found if named.check == "proxy"] == ["note"]
    assert found[-1].check == "redis"


def test_a_configuration_that_cannot_be_used() -> None:
    def load() -> Settings:
        raise ConfigurationError("servers.reverb.port", "must be a whole number", source="resonate.toml", value="x")

    first, other = examine(load, Machine.here())
    assert first.finding.what == "resonate.toml: servers.reverb.port = 'x': must be a whole number"
    assert (status([first]), status([other])) == (1, 0)
