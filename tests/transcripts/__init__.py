"""What a genuine Reverb answered, as data: reads the case files of this folder and their notation (see README.md)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from tests.support.rest import signed

Step = Mapping[str, Any]
Sign = Callable[[str, str | None, str], str]  # channel, channel_data, key -> auth

FOLDER = Path(__file__).parent
PLACEHOLDER = re.compile(r"\$\{(.)(?:\*(\d+))?\}")


@dataclass(frozen=True)
class Case:
    """One exchange. `differs` names the rules of differences.json by which we deviate from the recording.

    With `hosts` it is had with so many servers that share a Redis.
    """

    group: str
    number: int
    title: str
    steps: tuple[Step, ...]
    server: Mapping[str, Any] | None = None
    differs: tuple[str, ...] = ()
    barrier: bool = True
    hosts: int = 1

    @property
    def name(self) -> str:
        """The place in the recordings: source, group, number in the group from 1 on."""
        return f"{self.group}/{self.number}"

    @property
    def slug(self) -> str:
        return f"{self.group}-{self.number:02}-{'-'.join(self.title.split())}".replace("/", "-")


def cases() -> Iterator[Case]:
    """All cases, those of one group together, in the order of the recordings."""
    for file in sorted((FOLDER / "cases").glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        for case in content["cases"]:
            case["steps"], case["differs"] = tuple(case["steps"]), tuple(case.get("differs", ()))
            common = {"group": content["group"], "server": content.get("server"), "hosts": content.get("hosts", 1)}
            yield Case(**common, **case)


def sources() -> dict[str, int]:
    """How many cases each group of the recordings has."""
    content: dict[str, dict[str, int]] = json.loads((FOLDER / "sources.json").read_text())
    return {f"{source}/{group}": count for source, groups in content.items() for group, count in groups.items()}


def differences() -> tuple[dict[str, str], dict[str, str]]:
    """The rules of deviation with their reasons, and the cases that are not replayed with theirs."""
    content = json.loads((FOLDER / "differences.json").read_text())
    return content["rules"], content["not_replayed"]


def filled(step: Step, values: Mapping[str, str]) -> dict[str, Any]:
    """The step with `${a*9}` written out and `${A}`, `${i}` replaced by their values."""

    def value(found: re.Match[str]) -> str:
        return found[1] * int(found[2]) if found[2] else values[found[1]]

    content: dict[str, Any] = json.loads(PLACEHOLDER.sub(value, json.dumps(step, ensure_ascii=False)))
    return content


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def plain(value: Any) -> Any:
    """What is sent for `value`: every `{"$json": x}` becomes the text of x."""
    if isinstance(value, dict):
        if list(value) == ["$json"]:
            return compact(value["$json"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def message_text(step: Step, sign: Sign) -> str:
    """What a `send` step sends: literal text, JSON, or the short form of a subscription."""
    if "text" in step:
        return str(step["text"])
    message = plain(step["json"]) if "json" in step else subscription(step)
    data = message.get("data") if isinstance(message, dict) else None
    if isinstance(data, dict) and isinstance(data.get("auth"), dict) and "sign" in data["auth"]:
        data["auth"] = signature(data["auth"]["sign"], data, sign)
    return compact(message)


def subscription(step: Step) -> dict[str, Any]:
    """`{"subscribe": channel, "as": member}`, signed where the kind of channel wants it."""
    data: dict[str, Any] = {"channel": step["subscribe"]}
    if data["channel"].startswith(("private", "presence")):
        data["auth"] = {"sign": {}}
    if "as" in step:
        data["channel_data"] = compact(step["as"])
    return {"event": "pusher:subscribe", "data": data}


def signature(options: Step, data: Mapping[str, Any], sign: Sign) -> str:
    """The `auth` of a subscription; `options` say what it is made for instead: channel, channel_data, key, upper.

    A null channel_data leaves it out of the signature, a null key leaves the key out of `auth`.
    """
    wanted = {"key": "key1", **data, **options}
    channel_data = wanted.get("channel_data")
    auth = sign(wanted["channel"], channel_data if isinstance(channel_data, str) else None, wanted["key"] or "")
    key, digest = auth.split(":")
    digest = digest.upper() if options.get("upper") else digest
    return f"{key}:{digest}" if wanted["key"] else digest


def wanted_message(step: Step) -> Any:
    """What a `get` step waits for: literal JSON, an error, or the short form of a subscription's success."""
    if "error" in step:
        code, message = step["error"]
        return {"event": "pusher:error", "data": {"$json": {"code": code, "message": message}}}
    if "subscribed" in step:
        data = {"presence": step["presence"]} if "presence" in step else {}
        channel = step["subscribed"]
        return {"event": "pusher_internal:subscription_succeeded", "data": {"$json": data}, "channel": channel}
    return json.loads(step["text"]) if "text" in step else step["json"]


def app_number(path: str) -> str:
    """Which app a path is about; its key and secret carry the same number. An unknown app is asked for with app1's."""
    found = re.search(r"/app(?:s/app|/key)(\d)", unquote(path))
    return found[1] if found else "1"


def request_target(step: Step, method: str, path: str, body: bytes) -> str:
    """Path and query: signed when it is a REST path, then spoilt as the case wants it."""
    query: dict[str, str] = step.get("query", {})
    number = app_number(path)
    if step.get("signed", "/apps" in path):
        credentials = {"key": step.get("key", f"key{number}"), "secret": step.get("secret", f"secret{number}")}
        timestamp = int(time.time()) - int(step.get("age_s", 0))
        target = signed(method.upper(), path, body, query, timestamp=timestamp, **credentials)
    else:
        target = f"{path}?{urlencode(query)}" if query else path
    for pattern, replacement in step.get("rewrite", ()):
        target = re.sub(pattern, replacement, target, count=1)
    if step.get("upper"):
        target = re.sub(r"(?<=auth_signature=)\w+", lambda found: found[0].upper(), target)
    return target


def request_body(step: Step) -> bytes:
    if "hex" in step:
        return bytes.fromhex(step["hex"])
    text: str = compact(step["body"]) if "body" in step else step.get("raw", "")
    return text.encode()


def request(step: Step) -> bytes:
    """The bytes of an `http` step."""
    method, path = step["http"].split(" ", 1)
    body = request_body(step)
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Accept": "application/json"}
    target = request_target(step, method, path, body)
    if step.get("chunked"):
        headers["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif body or method == "POST":
        headers["Content-Length"] = str(len(body))
    return head(f"{method} {target}", step, headers) + body


def head(first: str, step: Step, headers: Mapping[str, str]) -> bytes:
    """Request line and header; what the step says replaces the usual, null leaves it out."""
    lines = [f"{first} {step.get('version', 'HTTP/1.1')}"]
    lines += [f"{name}: {value}" for name, value in {**headers, **step.get("headers", {})}.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()
