"""The run directory: names, who lives, and what is left of the dead."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from resonate.bus.directory import LONGEST_PATH, RunDirectory, alive, identity, pid_of
from resonate.errors import ConfigurationError
from tests.bus.support import ROOT, Place


@pytest.fixture
def above(place: Place) -> str:
    """A directory for run directories, which has one already."""
    return str(place.above)


def reborn(name: str) -> str:
    """The name of a process with the same pid that began later."""
    role, pid, start = name.split("-")
    return f"{role}-{pid}-{int(start) + 1}"


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_its_pid_and_start() -> None:
    pid, start = identity(os.getpid()).split("-")
    assert int(pid) == os.getpid()
    assert int(start) > 0
    assert pid_of(f"s12-{pid}-{start}") == os.getpid()


def test_a_process_lives_until_it_dies(place: Place) -> None:
    bystander = place.bystander()
    assert alive(bystander.worker)
    bystander.die()
    assert not alive(bystander.worker)
    with pytest.raises(ProcessLookupError):
        identity(pid_of(bystander.worker))


def test_a_zombie_does_not_live(place: Place) -> None:
    """A child that nobody has waited for has its pid still."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        identity(child)
    os.waitpid(child, 0)


def test_a_pid_that_is_used_again_is_another_process(place: Place) -> None:
    assert not alive(reborn(place.master.worker))


@pytest.mark.parametrize("name", ["", "w", "w-", "w-1", "w-x-1", "w--", "w-99999999999999999999-1", "control.sock"])
def test_what_is_no_name_does_not_live(name: str) -> None:
    assert not alive(name)


def test_a_process_may_be_called_anything(place: Place) -> None:
    """/proc shows the command's name in parentheses, whatever it holds."""
    path = place.above / ") S 1 (x y"
    path.symlink_to("/bin/sleep")
    child = os.posix_spawn(path, ["sleep", "60"], {})
    assert alive(f"w-{identity(child)}")
    os.kill(child, 9)
    os.waitpid(child, 0)


# --- making one ------------------------------------------------------------------------------------------------------


def test_it_is_for_its_owner_alone(above: str) -> None:
    directory = RunDirectory.create(above)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert directory.path.parent == Path(above)
    assert directory.master == f"m-{identity(os.getpid())}"
    directory.remove()
    assert not directory.path.exists()


def test_the_umask_takes_nothing_from_the_owner(above: str) -> None:
    before = os.umask(0o077)
    try:
        directory = RunDirectory.create(above)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_one_process_may_have_several(above: str) -> None:
    assert RunDirectory.create(above).path != RunDirectory.create(above).path


def test_the_parent_is_made_for_its_owner_alone(place: Place) -> None:
    parent = place.above / "run"
    RunDirectory.create(str(parent))
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700


def test_those_of_dead_masters_go_and_those_of_living_ones_stay(place: Place) -> None:
    dead = RunDirectory(place.above / f"resonate-0-{reborn(place.master.master)[2:]}-abcdef01")
    dead.ensure()
    dead.file("w-1-2").touch()
    created = RunDirectory.create(str(place.above))
    assert not dead.path.exists()
    assert {found.path for found in RunDirectory.masters(str(place.above))} == {place.directory.path, created.path}


def test_it_may_get_another_owner(place: Place) -> None:
    directory = place.directory
    directory.own()
    assert directory.master == f"m-{identity(os.getpid())}"
    place.master.die()
    RunDirectory.create(str(place.above))
    assert directory.path in {found.path for found in RunDirectory.masters(str(place.above))}
    before = directory.file("master").stat().st_mtime_ns
    directory.own()
    assert directory.file("master").stat().st_mtime_ns == before, "it is written once"
    directory.file("master").unlink()
    assert directory.master == place.master.master


@pytest.mark.parametrize("text", ["", "m-", "m-1", "m-0-5", "w-1-5", "m-1-5\n", "m-1-5/../x", "m-" + "1" * 99 + "-1"])
def test_what_names_no_master_does_not_count(place: Place, text: str) -> None:
    place.directory.file("master").write_text(text)
    assert place.directory.master == place.master.master


def test_what_is_foreign_is_left_alone(place: Place) -> None:
    gone = reborn(place.master.master)[2:]
    elsewhere = place.above / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    link = place.above / f"resonate-0-{gone}-aaaaaaaa"
    link.symlink_to(elsewhere)
    file = place.above / f"resonate-0-{gone}-bbbbbbbb"
    file.touch()
    others = [place.above / name for name in ("resonate", "resonate-0-1-2-3-4", f"other-0-{gone}-cccccccc")]
    for path in others:
        path.mkdir()
    RunDirectory.create(str(place.above))
    assert all(path.exists() for path in (elsewhere / "precious", link, file, *others))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another")
def test_what_belongs_to_another_is_left_alone(place: Place) -> None:
    dead = RunDirectory(place.above / f"resonate-0-{reborn(place.master.master)[2:]}-abcdef01")
    dead.ensure()
    os.chown(dead.path, 12345, 12345)
    os.chown(place.directory.path, 12345, 12345)
    RunDirectory.create(str(place.above)).remove()
    assert dead.path.exists()
    found = RunDirectory.masters(str(place.above))  # but root may look, in a place that it names
    assert [directory.path for directory in found] == [place.directory.path]


def test_a_path_that_is_too_long_for_sockets(place: Place) -> None:
    with pytest.raises(ConfigurationError, match=r"run_dir.*bytes or less"):
        RunDirectory.create(str(place.above / ("x" * 60)))
    assert not (place.above / ("x" * 60)).exists()


def test_the_longest_path_that_is_taken_has_room_for_every_name(place: Place) -> None:
    own = len(RunDirectory.create(str(place.above)).path.name)
    parent = str(place.above) + "/" + "x" * (LONGEST_PATH - own - 2 - len(str(place.above)))
    directory = RunDirectory.create(parent)
    assert len(os.fsencode(directory.file("s63-4194304-99999999999999999999"))) <= 107
    with pytest.raises(ConfigurationError):
        RunDirectory.create(parent + "x")


@pytest.mark.parametrize("parent", ["/proc/nobody/writes/here", "/proc", "/dev/null"])
def test_a_parent_that_cannot_be_used(parent: str) -> None:
    for tried in (RunDirectory.create, RunDirectory.check):
        with pytest.raises(ConfigurationError, match="run_dir"):
            tried(parent)


def test_a_check_leaves_nothing(place: Place) -> None:
    parent = place.above / "new"
    RunDirectory.check(str(parent))
    assert list(parent.iterdir()) == []


def test_masters_of_a_parent_that_is_not_there() -> None:
    assert RunDirectory.masters("/proc/nobody/writes/here") == []


def test_a_host_has_one_id(place: Place) -> None:
    found = place.directory.host_id()
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert RunDirectory(place.directory.path).host_id() == found
    assert os.listdir(place.directory.path) == ["host"]


def test_processes_that_ask_at_once_agree(place: Place) -> None:
    program = (
        "import sys; from pathlib import Path; from resonate.bus.directory import RunDirectory; sys.stdin.read()\n"
        "print(RunDirectory(Path(sys.argv[1])).host_id())"
    )
    words = [sys.executable, "-c", program, str(place.directory.path)]
    asking = [
        subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in asking:
        assert process.stdin is not None
        process.stdin.close()
    found = set()
    for process in asking:
        assert process.stdout is not None
        with process.stdout as answer:
            found.add(answer.read().strip())
        assert process.wait() == 0
    assert found == {place.directory.host_id()}


def test_a_directory_that_is_made_anew_is_another_host(place: Place) -> None:
    before = place.directory.host_id()
    place.directory.remove()
    with pytest.raises(OSError, match="No such file"):
        place.directory.host_id()
    place.directory.ensure()
    assert place.directory.host_id() != before


# --- who is there ----------------------------------------------------------------------------------------------------


def test_who_is_there(place: Place) -> None:
    directory, living, dead = place.directory, place.bystander(), place.bystander()
    dead.die()
    for name in (living.worker, dead.worker, reborn(living.worker), "start-0", "control.sock", "w-", "s0-"):
        directory.file(name).touch()
    assert directory.workers() == [living.worker]
    assert directory.shard(0) is None


def test_a_shard_is_found_by_its_number(place: Place) -> None:
    directory, living = place.directory, place.master.worker[1:]
    directory.file(f"s0{reborn(place.master.worker)[1:]}").touch()
    directory.file(f"s1{living}").touch()
    directory.file(f"s12{living}").touch()
    assert [directory.shard(index) for index in (0, 1, 2, 12)] == [None, f"s1{living}", None, f"s12{living}"]


def test_nobody_is_in_a_directory_that_has_vanished(place: Place) -> None:
    place.directory.remove()
    assert place.directory.workers() == []
    assert place.directory.shard(0) is None
    place.directory.sweep()
    assert place.directory.ensure() == ""
    assert stat.S_IMODE(place.directory.path.stat().st_mode) == 0o700


def test_it_says_why_it_cannot_be_made_anew() -> None:
    assert "cannot be made" in RunDirectory(Path("/proc/nobody/resonate-0-1-2-3")).ensure()


def test_files_of_the_dead_are_swept(place: Place) -> None:
    directory, living, dead = place.directory, place.bystander(), place.bystander()
    dead.die()
    kept = {living.worker, f"s0{living.worker[1:]}", "start-0", "control.sock", "stranger", "scoreboard"}
    for name in (*kept, dead.worker, f"s3{dead.worker[1:]}", reborn(living.worker)):
        directory.file(name).touch()
    directory.sweep()
    assert set(os.listdir(directory.path)) == kept


def test_seats_are_of_one_directory_and_one_number(place: Place) -> None:
    other = RunDirectory(place.above / "other")
    seats = {place.directory.seat(0), place.directory.seat(1), other.seat(0)}
    assert len(seats) == 3
    assert all(seat.startswith("\0") and len(os.fsencode(seat)) <= 107 for seat in seats)
