"""What cannot be used is named with source, key and value; a secret never is."""

from __future__ import annotations

import pytest

from tests.config.support import Directory


@pytest.mark.parametrize(
    ("server", "key", "value"),
    [
        ('port = "many"', "servers.reverb.port", "'many'"),
        ("port = 8080.5", "servers.reverb.port", "8080.5"),
        ("port = true", "servers.reverb.port", "True"),
        ("port = 65536", "servers.reverb.port", "65536"),
        ("port = -1", "servers.reverb.port", "-1"),
        ("host = 5", "servers.reverb.host", "5"),
        ('path = "ws"', "servers.reverb.path", "'ws'"),
        ('path = "/ws/"', "servers.reverb.path", "'/ws/'"),
        ('path = "/a b"', "servers.reverb.path", "'/a b'"),
        ("max_request_size = 0", "servers.reverb.max_request_size", "0"),
        ("auth_timestamp_grace = -1", "servers.reverb.auth_timestamp_grace", "-1"),
        ("drain_timeout = -1", "servers.reverb.drain_timeout", "-1"),
        ("workers = 257", "servers.reverb.workers", "257"),
        ("workers = 0", "servers.reverb.workers", "0"),
        ('workers = "many"', "servers.reverb.workers", "'many'"),
        ("bus_shards = 33", "servers.reverb.bus_shards", "33"),
        ("bus_shards = 0", "servers.reverb.bus_shards", "0"),
        ("worker_timeout = 0", "servers.reverb.worker_timeout", "0"),
        ("metrics_port = 70000", "servers.reverb.metrics_port", "70000"),
        ("health_timeout = 0", "servers.reverb.health_timeout", "0"),
        ("handshake_timeout = 0", "servers.reverb.handshake_timeout", "0"),
        ("max_send_buffer = 100", "servers.reverb.max_send_buffer", "100"),
        ("max_subscriptions_per_connection = 0", "servers.reverb.max_subscriptions_per_connection", "0"),
        ("cache_ttl = 0", "servers.reverb.cache_ttl", "0"),
        ('scaling.enabled = "perhaps"', "servers.reverb.scaling.enabled", "'perhaps'"),
        ("scaling.patience = 0", "servers.reverb.scaling.patience", "0"),
        ("scaling.patience = nan", "servers.reverb.scaling.patience", "nan"),
        ('scaling.patience = "1e3"', "servers.reverb.scaling.patience", "'1e3'"),
        ("scaling.lease = 2", "servers.reverb.scaling.lease", "2"),
        ("scaling.lease = 3601", "servers.reverb.scaling.lease", "3601"),
        ("scaling.log_length = 99", "servers.reverb.scaling.log_length", "99"),
        ("scaling.log_seconds = 9", "servers.reverb.scaling.log_seconds", "9"),
        ("scaling.queue_bytes = 0", "servers.reverb.scaling.queue_bytes", "0"),
        ("scaling.queue_seconds = 0", "servers.reverb.scaling.queue_seconds", "0"),
        ('scaling.outage_publish = 201', "servers.reverb.scaling.outage_publish", "201"),
        ('scaling.outage_health = 202', "servers.reverb.scaling.outage_health", "202"),
        ('scaling.envelope = "xml"', "servers.reverb.scaling.envelope", "'xml'"),
        (
            'scaling = {envelope = "resonate", secret = "hunter2-and-more"}',
            "servers.reverb.scaling.envelope",
            "'resonate'",
        ),
        ('scaling.server.database = "x"', "servers.reverb.scaling.server.database", "'x'"),
        ('plugins = ["a.B"]', "servers.reverb.plugins", "['a.B']"),
        ('options = "x"', "servers.reverb.options", ""),
        ("hots = 5", "servers.reverb.hots", ""),
        ("scaling.sever.port = 5", "servers.reverb.scaling.sever", ""),
    ],
)
def test_server(directory: Directory, server: str, key: str, value: str) -> None:
    error = directory.toml(server).error()
    assert str(directory.path / "resonate.toml") in error
    assert f" {key}{' = ' if value else ''}{value}: " in error


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("max_connections = -1", "max_connections", "-1"),
        ("max_connections = 1000000000000000000", "max_connections", "1000000000000000000"),
        ('max_connections = "few"', "max_connections", "'few'"),
        ("max_message_size = -1", "max_message_size", "-1"),
        ("ping_interval = 0", "ping_interval", "0"),
        ("activity_timeout = 0", "activity_timeout", "0"),
        ('accept_client_events_from = "some"', "accept_client_events_from", "'some'"),
        ("allowed_origins = [1]", "allowed_origins", "[1]"),
        ("allowed_origins = 1", "allowed_origins", "1"),
        ('rate_limiting.enabled = "perhaps"', "rate_limiting.enabled", "'perhaps'"),
        ("rate_limiting.max_attempts = 0", "rate_limiting.max_attempts", "0"),
        ("rate_limiting.decay_seconds = 0", "rate_limiting.decay_seconds", "0"),
        ('options.scheme = "ftp"', "options.scheme", "'ftp'"),
        ("options.port = 65536", "options.port", "65536"),
        ("max_conections = 5", "max_conections", ""),
        ("rate_limiting = true", "rate_limiting", ""),
    ],
)
def test_app(directory: Directory, line: str, key: str, value: str) -> None:
    error = directory.app(line).error()
    assert str(directory.path / "resonate.toml") in error
    assert f" apps.apps[0].{key}{' = ' if value else ''}{value}: " in error


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REVERB_SERVER_PORT", "many"),
        ("REVERB_SERVER_PORT", "65536"),
        ("REVERB_SERVER_PATH", "ws/"),
        ("REVERB_APP_PING_INTERVAL", "0"),
        ("REVERB_APP_RATE_LIMITING_ENABLED", "perhaps"),
        ("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "some"),
        ("REVERB_SCALING_ENABLED", "perhaps"),
        ("RESONATE_SCALING_PATIENCE", "61"),
        ("RESONATE_WORKERS", "0"),
        ("RESONATE_LOG_FORMAT", "xml"),
    ],
)
def test_variables(directory: Directory, variable: str, value: str) -> None:
    assert directory.toml().dotenv(f"{variable}={value}\n").error().startswith(f".env: {variable} = '{value}': ")
    error = directory.dotenv("").environ(**{variable: value}).error()
    assert error.startswith(f"environment: {variable} = '{value}': ")


def test_command_line(directory: Directory) -> None:
    assert directory.toml().error({"port": "many"}) == "command line: --port = 'many': must be a whole number"
    assert directory.error({"path": "ws"}).startswith("command line: --path = 'ws': ")


def test_an_unknown_key_is_told_with_those_that_are_known(directory: Directory) -> None:
    assert "max_connections" in directory.app("max_conections = 5").error()
    assert "drain_timeout" in directory.toml("drain = 5").error()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[server.reverb]\nport = 1\n", "server"),
        ("[servers.other]\nport = 1\n", "servers.other"),
        ('default = "other"\n', "default"),
        ('[apps]\nprovider = "database"\n', "apps.provider"),
        ('apps = "hunter2"\n', "apps"),
        ('[apps]\napps = "hunter2"\n', "apps.apps"),
        ('[apps.apps]\nsecret = "hunter2"\n', "apps.apps"),
    ],
)
def test_the_shape_of_the_file(directory: Directory, text: str, key: str) -> None:
    (directory.path / "resonate.toml").write_text(text)
    assert f"resonate.toml: {key}" in directory.error()


# --- apps ------------------------------------------------------------------------------------------------------------


def test_no_app(directory: Directory) -> None:
    error = directory.error()
    assert all(name in error for name in ("REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET"))


@pytest.mark.parametrize("missing", ["app_id", "key", "secret"])
def test_an_app_without_its_credentials(directory: Directory, missing: str) -> None:
    given = [f'{name} = "hunter2"' for name in ("app_id", "key", "secret") if name != missing]
    error = directory.toml(apps=f"apps = [{{{', '.join(given)}}}]").error()
    assert f"apps.apps[0].{missing}: is required" in error


@pytest.mark.parametrize("empty", ["app_id", "key", "secret"])
def test_an_app_with_empty_credentials(directory: Directory, empty: str) -> None:
    credentials = {"app_id": "1", "key": "k", "secret": "hunter2", empty: ""}
    line = ", ".join(f'{name} = "{value}"' for name, value in credentials.items())
    assert f"apps.apps[0].{empty}" in directory.toml(apps=f"apps = [{{{line}}}]").error()


@pytest.mark.parametrize(("same", "shown"), [("app_id", "'1'"), ("key", "'k'")])
def test_two_apps_with_the_same_name(directory: Directory, same: str, shown: str) -> None:
    second = {"app_id": "2", "key": "k2", same: shown.strip("'")}
    apps = (
        f'apps = [{{app_id = "1", key = "k", secret = "hunter2"}}, '
        f'{{app_id = "{second["app_id"]}", key = "{second["key"]}", secret = "hunter2"}}]'
    )
    error = directory.toml(apps=apps).error()
    assert f"apps.apps[].{same} = {shown}: " in error


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [
        'scaling.server = "redis://:hunter2@host"',
        'scaling = "redis://:hunter2@host"',
        'scaling.server.url = ["redis://:hunter2@host"]',
        'scaling.server.password = ["hunter2"]',
        'scaling.server.password = {value = "hunter2"}',
        'restart.store = "redis"\nscaling.server.url = "http://:hunter2@host"',
        'restart.store = "redis"\nscaling.server.url = "redis://:hunter2/@host"',
        'scaling.enabled = true\nscaling.server.url = "http://:hunter2@host"',
        'scaling.enabled = true\nscaling.server.url = "redis+sentinel://:hunter2@host"',
        'scaling.enabled = true\nscaling.server.url = "redis+sentinel://:hunter2@host:x/master"',
        'scaling.secret = "hunter2"',
        'options.tls = "hunter2"',
        'options.tls.passphrase = ["hunter2"]',
        'options.tls.pasphrase = "hunter2"',
    ],
)
def test_secrets_of_the_server_are_not_shown(directory: Directory, server: str) -> None:
    assert "hunter2" not in directory.toml(server).error()


@pytest.mark.parametrize(
    "apps",
    [
        'apps = [{app_id = "1", key = "k", secret = ["hunter2"]}]',
        'apps = [{app_id = "1", key = "k", secret = {value = "hunter2"}}]',
        'apps = [{app_id = "1", key = "k", secrt = "hunter2"}]',
        'apps = ["1:k:hunter2"]',
        'apps = [["1", "k", "hunter2"]]',
        'apps = {app_id = "1", key = "k", secret = "hunter2"}',
    ],
)
def test_secrets_of_apps_are_not_shown(directory: Directory, apps: str) -> None:
    assert "hunter2" not in directory.toml(apps=apps).error()


def test_secrets_are_in_no_repr(directory: Directory) -> None:
    lines = 'options.tls = {local_cert = "c", passphrase = "hunter2"}', 'scaling.secret = "hunter2-and-hunter2"'
    redis = 'scaling.server = {password = "hunter2", url = "redis://:hunter2@h"}'
    settings = directory.toml("\n".join((*lines, redis))).load()
    assert settings.apps[0].secret == "hunter2"
    assert "hunter2" not in repr(settings)
