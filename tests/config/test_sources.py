"""Which source wins, several apps, and the file that is read."""

from __future__ import annotations

import pytest

from tests.config.support import Directory

FIRST = '{app_id = "1", key = "k1", secret = "s1"}'
SECOND = '{app_id = "2", key = "k2", secret = "s2", max_connections = 2}'
TWO = f"apps = [{FIRST}, {SECOND}]"


def test_later_sources_win(directory: Directory) -> None:
    assert directory.toml().load().server.port == 8080
    assert directory.toml("port = 1111").load().server.port == 1111
    assert directory.dotenv("REVERB_SERVER_PORT=2222\n").load().server.port == 2222
    assert directory.environ(REVERB_SERVER_PORT="3333").load().server.port == 3333
    assert directory.load({"port": "4444"}).server.port == 4444


def test_an_empty_variable_counts_as_unset(directory: Directory) -> None:
    directory.toml("port = 1111").dotenv("REVERB_SERVER_PORT=2222\n").environ(REVERB_SERVER_PORT="")
    assert directory.load().server.port == 2222
    assert directory.dotenv("REVERB_SERVER_PORT=\n").load().server.port == 1111


def test_without_a_file_the_environment_suffices(directory: Directory) -> None:
    (app,) = directory.environ(REVERB_APP_ID="1", REVERB_APP_KEY="k", REVERB_APP_SECRET="s").load().apps
    assert (app.app_id, app.key, app.secret) == ("1", "k", "s")


def test_without_a_file_dotenv_suffices(directory: Directory) -> None:
    (app,) = directory.dotenv("REVERB_APP_ID=1\nREVERB_APP_KEY=k\nREVERB_APP_SECRET=s\n").load().apps
    assert (app.app_id, app.key, app.secret) == ("1", "k", "s")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('REVERB_APP_SECRET="with space # and hash"', "with space # and hash"),
        ("REVERB_APP_SECRET='single # quoted'", "single # quoted"),
        ("REVERB_APP_SECRET=plain # a comment", "plain"),
        ("export REVERB_APP_SECRET=exported", "exported"),
        ("BASE=abc\nREVERB_APP_SECRET=${BASE}def", "abcdef"),
        ('BASE=abc\nREVERB_APP_SECRET="${BASE}-def"', "abc-def"),
        ("# a comment\n\nREVERB_APP_SECRET = spaced ", "spaced"),
        ("REVERB_APP_SECRET=first\nREVERB_APP_SECRET=second", "second"),
        ("REVERB_APP_SECRET=a=b", "a=b"),
    ],
)
def test_dotenv(directory: Directory, text: str, secret: str) -> None:
    assert directory.toml().dotenv(text + "\n").load().apps[0].secret == secret


def test_dotenv_is_not_put_into_the_environment(directory: Directory) -> None:
    directory.toml().dotenv("REVERB_SERVER_PORT=2222\n").load()
    assert directory.dotenv("").load().server.port == 8080


# --- several apps ----------------------------------------------------------------------------------------------------


def test_several_apps(directory: Directory) -> None:
    apps = directory.toml(apps=TWO).load().apps
    assert [(app.app_id, app.key, app.max_connections) for app in apps] == [("1", "k1", None), ("2", "k2", 2)]


def test_with_several_apps_the_environment_is_that_of_the_one_it_names(directory: Directory) -> None:
    settings = directory.toml(apps=TWO).environ(REVERB_APP_ID="2", REVERB_APP_MAX_CONNECTIONS="9").load()
    assert [app.max_connections for app in settings.apps] == [None, 9]
    assert settings.notices == ()


@pytest.mark.parametrize("variables", [{}, {"REVERB_APP_ID": "3"}])
def test_with_several_apps_an_environment_that_names_none_is_noticed(
    directory: Directory, variables: dict[str, str]
) -> None:
    settings = directory.toml(apps=TWO).environ(**variables, REVERB_APP_SECRET="hunter2").load()
    assert [app.secret for app in settings.apps] == ["s1", "s2"]
    (notice,) = settings.notices
    assert "REVERB_APP_SECRET" in notice
    assert "hunter2" not in notice


def test_unknown_variables_of_ours_are_noticed(directory: Directory) -> None:
    settings = directory.toml().environ(RESONATE_CASH_TTL="5", REVERB_SOMETHING_OF_LARAVEL="x").load()
    (notice,) = settings.notices
    assert "RESONATE_CASH_TTL" in notice


# --- the file --------------------------------------------------------------------------------------------------------


def test_resonate_config_names_the_file(directory: Directory) -> None:
    directory.toml("port = 1111").toml("port = 2222", name="other.toml").environ(RESONATE_CONFIG="other.toml")
    assert directory.load().server.port == 2222


def test_resonate_config_may_stand_in_dotenv(directory: Directory) -> None:
    directory.toml("port = 2222", name="other.toml").dotenv("RESONATE_CONFIG=other.toml\n")
    assert directory.load().server.port == 2222


def test_the_command_lines_file_wins(directory: Directory) -> None:
    directory.toml("port = 1111", name="a.toml").toml("port = 2222", name="b.toml").environ(RESONATE_CONFIG="a.toml")
    assert directory.load(file="b.toml").server.port == 2222
    assert directory.load(file=str(directory.path / "b.toml")).server.port == 2222


def test_the_file_is_looked_for_in_the_working_directory(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    from resonate import config

    directory.toml("port = 1111")
    monkeypatch.chdir(directory.path)
    assert config.load().server.port == 1111


@pytest.mark.parametrize("named", ["missing.toml", "."])
def test_a_file_that_is_not_there(directory: Directory, named: str) -> None:
    directory.toml()
    assert directory.error(file=named) == f"command line: --config = '{named}': no such file"
    assert directory.environ(RESONATE_CONFIG=named).error() == f"environment: RESONATE_CONFIG = '{named}': no such file"


@pytest.mark.parametrize("text", [b"port =", b"\xff", b"[a]\n[a]\n", b'secret = "hunter2'])
def test_a_file_that_is_no_toml(directory: Directory, text: bytes) -> None:
    (directory.path / "resonate.toml").write_bytes(text)
    assert "resonate.toml: cannot be read: " in directory.error()


def test_a_dotenv_that_is_no_text(directory: Directory) -> None:
    (directory.path / ".env").write_bytes(b"\xff\xfe=\xff")
    assert ".env: cannot be read: " in directory.error()


def test_a_php_file_that_lies_there_is_noticed_and_not_read(directory: Directory) -> None:
    (directory.path / "config").mkdir()
    (directory.path / "config" / "reverb.php").write_text("<?php return [];")
    settings = directory.environ(REVERB_APP_ID="1", REVERB_APP_KEY="k", REVERB_APP_SECRET="s").load()
    (notice,) = settings.notices
    assert "reverb.php" in notice


def test_a_php_file_that_is_named_says_what_to_do_instead(directory: Directory) -> None:
    (directory.path / "reverb.php").write_text("<?php return [];")
    assert "resonate.toml" in directory.error(file="reverb.php")
