"""Bodies of events, checked with Laravel's rules and worded as Laravel words them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from resonate.errors import HttpError

Errors = dict[str, list[str]]

#: Fields of a batch that are complained about; an answer should not be many times longer than the question.
MAX_ERRORS: Final = 100


class InvalidError(HttpError):
    """The body breaks rules: a 422 that names each field."""

    def __init__(self, errors: Errors) -> None:
        super().__init__(422, "The body is invalid.", body=orjson.dumps(errors))


class Event(NamedTuple):
    """One event to publish; `info` None when it was not asked for."""

    name: str
    data: str
    channels: list[str]
    socket_id: str | None
    info: list[str] | None


def body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises HttpError 400 when it is no JSON; what is no object has no fields."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise HttpError(400, "The body is not valid JSON.") from None
    return value if isinstance(value, dict) else {}


def event(data: dict[str, Any]) -> Event:
    """An event of `POST /events`. Raises InvalidError."""
    errors: Errors = {}
    _string(errors, data, "name", required=True)
    _string(errors, data, "data", required=True)
    channels = _channels(errors, data)
    _optional_strings(errors, data, "")
    if errors:
        raise InvalidError(errors)
    return Event(data["name"], data["data"], channels, data.get("socket_id"), _info(data))


def user_event(data: dict[str, Any], channel: str) -> Event:
    """An event of `POST /users/{user}/events`. Raises InvalidError."""
    errors: Errors = {}
    _string(errors, data, "name", required=True)
    _string(errors, data, "data", required=True)
    if errors:
        raise InvalidError(errors)
    return Event(data["name"], data["data"], [channel], None, None)


def batch(data: dict[str, Any]) -> list[Event]:
    """The events of `POST /batch_events`. Raises InvalidError when any of them breaks a rule: all or none."""
    items = data.get("batch")
    if _empty(items):
        raise InvalidError({"batch": ["The batch field is required."]})
    if not isinstance(items, list):
        raise InvalidError({"batch": ["The batch field must be an array."]})
    errors: Errors = {}
    checked = []
    for index, item in enumerate(items):
        checked.append(_batch_item(errors, item if isinstance(item, dict) else {}, f"batch.{index}."))
        if len(errors) >= MAX_ERRORS:
            break
    if errors:
        raise InvalidError(errors)
    return [
        Event(item["name"], item["data"], [item["channel"]], item.get("socket_id"), _info(item)) for item in checked
    ]


def _batch_item(errors: Errors, item: dict[str, Any], prefix: str) -> dict[str, Any]:
    _string(errors, item, "name", prefix, required=True)
    _string(errors, item, "data", prefix, required=True)
    if _empty(item.get("channel")):
        _add(errors, f"{prefix}channel", "is required when channels is not present")
    else:
        _string(errors, item, "channel", prefix)
    _optional_strings(errors, item, prefix)
    return item


def _channels(errors: Errors, data: dict[str, Any]) -> list[str]:
    channels, channel = data.get("channels"), data.get("channel")
    if _empty(channels) and _empty(channel):
        _add(errors, "channels", "is required when channel is not present")
        _add(errors, "channel", "is required when channels is not present")
        return []
    if "channel" in data:
        _string(errors, data, "channel")
    if "channels" not in data or channels in ([], {}):
        return [str(channel)]
    if isinstance(channels, dict):  # a PHP array is either; Reverb takes the values
        channels = list(channels.values())
    if not isinstance(channels, list):
        _add(errors, "channels", "must be an array")
        return []
    for index, name in enumerate(channels):
        if not isinstance(name, str):
            _add(errors, f"channels.{index}", "must be a string")
    return list(dict.fromkeys(channels)) if not errors else []


def _string(errors: Errors, data: dict[str, Any], key: str, prefix: str = "", *, required: bool = False) -> None:
    value = data.get(key)
    if required and _empty(value):
        _add(errors, prefix + key, "is required")
    elif not isinstance(value, str):
        _add(errors, prefix + key, "must be a string")


def _optional_strings(errors: Errors, data: dict[str, Any], prefix: str) -> None:
    for key in ("socket_id", "info"):
        if key in data:
            _string(errors, data, key, prefix)


def _empty(value: Any) -> bool:
    """Laravel's `required`: null, blank strings and empty lists are as good as absent."""
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _add(errors: Errors, field: str, what: str) -> None:
    errors.setdefault(field, []).append(f"The {field.replace('_', ' ')} field {what}.")


def _info(data: dict[str, Any]) -> list[str] | None:
    return data["info"].split(",") if "info" in data else None
