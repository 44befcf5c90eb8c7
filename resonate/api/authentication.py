"""Signed requests: Pusher's scheme as Reverb reads it (see docs/protocol.md for what exactly is signed)."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from resonate.errors import HttpError
from resonate.http import Request
from resonate.pusher import signatures
from resonate.settings import App

#: Parameters that are part of the URL but never of what is signed.
_UNSIGNED: Final = ("auth_signature", "body_md5", "appId", "appKey", "channelName")
_MD5_OF_NOTHING: Final = signatures.body_md5(b"")


def parameters(query: str) -> dict[str, str]:
    """The query's parameters, decoded; `name[]` given several times is one `name` with its values joined by commas."""
    if "%" not in query and "+" not in query and "[" not in query:
        return dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        base, bracket, _ = name.partition("[")
        found[base] = f"{found[base]},{value}" if bracket and base in found else value
    return found


def verify(app: App, request: Request, path: str, query: dict[str, str], now: float, grace: int) -> None:
    """Raise HttpError 401 unless the request was signed with the app's secret, not long ago.

    `path` is as it stands on the request line, less the configured prefix; `now` is Unix time; a `grace` of 0 seconds
    turns the check of the time stamp off.
    """
    signed = {name: value for name, value in query.items() if name not in _UNSIGNED}
    texts = [signed]
    if request.body:
        signed["body_md5"] = signatures.body_md5(request.body)
    elif query.get("body_md5") == _MD5_OF_NOTHING:  # the official Python library signs this on every GET
        texts.append({**signed, "body_md5": _MD5_OF_NOTHING})
    signature = query.get("auth_signature", "")
    if not any(_matches(app, request.method, path, text, signature) for text in texts):
        raise HttpError(401, "Authentication signature invalid.")
    if grace:
        _check_time(query.get("auth_timestamp", ""), now, grace)


def _matches(app: App, method: str, path: str, signed: dict[str, str], signature: str) -> bool:
    text = "&".join([f"{name}={signed[name]}" for name in sorted(signed)])
    return signatures.matches(app.secret_bytes, f"{method}\n{path}\n{text}", signature)


def _check_time(stamp: str, now: float, grace: int) -> None:
    if not (stamp.isascii() and stamp.isdigit()):
        raise HttpError(401, "Authentication timestamp invalid.")
    apart = abs(now - int(stamp[:18]))
    if apart > grace:
        raise HttpError(
            401, f"Authentication timestamp expired: {apart:.0f} s from this server's clock, {grace} s are allowed."
        )
