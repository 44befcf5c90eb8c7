"""From values to settings: parses each by its key, and names source, key and value of what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from resonate.config.schema import APP, OTHER_VARIABLES, SERVER, Key
from resonate.config.sources import Value, flatten
from resonate.errors import ConfigurationError
from resonate.scaling import Redis, Scaling
from resonate.settings import App, AppOptions, RateLimiting, Server, Settings, Tls

Made = TypeVar("Made")

_SECRETS = ("secret", "passphrase", "password", "url")


def build(
    tree: Mapping[str, Any],
    source: str,
    variables: Mapping[str, Value],
    options: Mapping[str, Any],
    notices: Sequence[str] = (),
) -> Settings:
    """Settings of a file's tree, the environment and command-line options (`servers.reverb` keys)."""
    server_tree, app_trees = _split(tree, source)
    server = flatten(server_tree, SERVER, source, "servers.reverb.")
    server |= _from_environment(SERVER, variables)
    server |= {name: Value(value, "command line", f"--{name}") for name, value in options.items() if value is not None}
    notices = [*notices, *(f"{name} is not a setting and is ignored" for name in _unknown(variables))]
    return _make(
        Settings, {}, server=_server(server), apps=_apps(app_trees, source, variables, notices), notices=tuple(notices)
    )


def _split(tree: Mapping[str, Any], source: str) -> tuple[Any, list[Any]]:
    """The part of the server and those of the apps, out of the shape of config/reverb.php."""
    known = {"default": None, "servers.reverb": None, "apps.provider": None, "apps.apps": None}
    leaves = flatten(dict(tree), known, source, "")
    default, provider = leaves.get("default"), leaves.get("apps.provider")
    for value, expected in ((default, "reverb"), (provider, "config")):
        if value is not None and value.raw != expected:
            raise ConfigurationError(value.key, f"must be {expected!r}", source=source, value=value.raw)
    apps = leaves["apps.apps"].raw if "apps.apps" in leaves else []
    if not isinstance(apps, list):
        raise ConfigurationError("apps.apps", "must be a list of tables", source=source)
    return (leaves["servers.reverb"].raw if "servers.reverb" in leaves else {}), apps


def _from_environment(keys: Mapping[str, Key], variables: Mapping[str, Value]) -> dict[str, Value]:
    return {name: variables[key.env] for name, key in keys.items() if key.env is not None and key.env in variables}


def _unknown(variables: Mapping[str, Value]) -> list[str]:
    known = {key.env for key in (*SERVER.values(), *APP.values())} | set(OTHER_VARIABLES)
    return sorted(name for name in variables if name.startswith("RESONATE_") and name not in known)


def _server(values: Mapping[str, Value]) -> Server:
    parsed = _parse(SERVER, values)
    given = _given(SERVER, values)
    tls, redis, scaling = (_part(parsed, name) for name in ("tls", "redis", "scaling"))
    if any(tls.values()) and not tls.get("local_cert"):
        raise ConfigurationError(
            "options.tls.local_cert", "is required: there is a key or a passphrase and no certificate"
        )
    if tls.get("local_cert"):
        parsed["tls"] = Tls(**tls)
    parsed["scaling"] = _make(Scaling, given, redis=Redis(**redis), **scaling)
    return _make(Server, given, **parsed)


def _apps(trees: list[Any], source: str, variables: Mapping[str, Value], notices: list[str]) -> tuple[App, ...]:
    """The apps of the file; the environment's variables belong to the only one, or to the one with the same id."""
    values = [flatten(tree, APP, source, f"apps.apps[{index}].") for index, tree in enumerate(trees)]
    given = _from_environment(APP, variables)
    if not values:
        values = [given] if {"app_id", "key", "secret"} & given.keys() else []
    elif len(values) == 1:
        values[0] |= given
    elif given:
        named = given["app_id"].raw if "app_id" in given else None
        matching = [app for app in values if "app_id" in app and app["app_id"].raw == named]
        for app in matching:
            app |= given
        if not matching:
            notices.append(
                f"the variables of one app ({', '.join(value.key for value in given.values())}) are ignored: "
                "the file has several apps, and REVERB_APP_ID names none of them"
            )
    return tuple(_app(app, f"apps.apps[{index}].") for index, app in enumerate(values))


def _app(values: Mapping[str, Value], prefix: str) -> App:
    for name in ("app_id", "key", "secret"):
        if name not in values:
            raise ConfigurationError(prefix + name, f"is required (or {APP[name].env} in the environment)")
    parsed = _parse(APP, values)
    given = _given(APP, values)
    options, rate = _part(parsed, "options"), _part(parsed, "rate_limiting")
    return _make(
        App,
        given,
        options=_make(AppOptions, _part(given, "options"), **options),
        rate_limiting=_make(RateLimiting, _part(given, "rate_limiting"), **rate),
        **parsed,
    )


def _given(keys: Mapping[str, Key], values: Mapping[str, Value]) -> dict[str, Value]:
    """The values by what an error may call them: the field or the key."""
    return {keys[name].field or name: value for name, value in values.items()} | dict(values)


def _part(values: dict[str, Any], part: str) -> dict[str, Any]:
    """What belongs to that part, taken out."""
    mine = [name for name in values if name.startswith(f"{part}.")]
    return {name.removeprefix(f"{part}."): values.pop(name) for name in mine}


def _parse(keys: Mapping[str, Key], values: Mapping[str, Value]) -> dict[str, Any]:
    parsed = {}
    for name, value in values.items():
        key = keys[name]
        try:
            result = key.parse(value.raw)
        except ValueError as error:
            raise ConfigurationError(
                value.key, str(error), source=value.source, value=_shown(name, value.raw)
            ) from None
        if key.field is not None:
            parsed[key.field] = result
    return parsed


def _make(kind: type[Made], given: Mapping[str, Value], **fields: Any) -> Made:
    """Construct it; an error about a field is told with the source, key and value that it came from."""
    try:
        return kind(**fields)
    except ConfigurationError as error:
        value = given.get(error.key)
        if value is None:
            raise
        shown = _shown(error.key, value.raw)
        raise ConfigurationError(value.key, error.reason, source=value.source, value=shown) from None


def _shown(name: str, raw: Any) -> Any:
    return "[hidden]" if name.endswith(_SECRETS) else raw
