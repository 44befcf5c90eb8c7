"""A chat with a lobby for all and a room for staff; the site and its real-time server are one program.

Start it with ``gunicorn -k resonate.worker app:app``.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass

import pusher
from flask import Flask, abort, redirect, render_template, request, session, url_for
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.wrappers import Response

LOBBY = "lobby"
STAFF = "private-staff"
MAX_TEXT = 500
PUSHER_JS_URL = "https://cdn.jsdelivr.net/npm/pusher-js@8.6.0/dist/web/pusher.min.js"

app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ["SECRET_KEY"],
    SESSION_COOKIE_SAMESITE="Lax",
    SESSION_COOKIE_SECURE=os.environ.get("SITE_HTTPS") == "1",
    PUSHER_JS_URL=os.environ.get("PUSHER_JS_URL", PUSHER_JS_URL),
)

# The server that this very process is: the variables are the ones that it reads itself.
KEY = os.environ["REVERB_APP_KEY"]
realtime = pusher.Pusher(
    app_id=os.environ["REVERB_APP_ID"],
    key=KEY,
    secret=os.environ["REVERB_APP_SECRET"],
    host=os.environ.get("REVERB_HOST", "127.0.0.1"),
    port=int(os.environ.get("REVERB_PORT", "8000")),
    ssl=os.environ.get("REVERB_SCHEME") == "https",
)


@dataclass(frozen=True)
class User:
    """Who may sign in. `rooms` are the channels that the user may read and write."""

    password_hash: str
    rooms: tuple[str, ...]


# A real site has a table of users here.
NOBODY = User(generate_password_hash(secrets.token_hex()), ())
USERS = {
    "ada": User(generate_password_hash("lovelace"), (LOBBY, STAFF)),
    "grace": User(generate_password_hash("hopper"), (LOBBY, STAFF)),
    "guest": User(generate_password_hash("guest"), (LOBBY,)),
}


def current_user() -> User:
    """The user of the session; ends the request with 403 when nobody is signed in."""
    return USERS.get(session.get("user", "")) or abort(403)


@app.template_global()
def csrf_token() -> str:
    """What a form or a script of this site has to send back, and another site cannot know."""
    token: str = session.setdefault("csrf", secrets.token_urlsafe())
    return token


@app.before_request
def check_csrf() -> None:
    if request.method == "POST":
        sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
        if not hmac.compare_digest(sent.encode(), csrf_token().encode()):
            abort(403)


@app.get("/")
def room() -> str | Response:
    user = USERS.get(session.get("user", ""))
    if user is None:
        return redirect(url_for("login"))
    return render_template("room.html", name=session["user"], rooms=user.rooms, key=KEY)


@app.route("/login", methods=["GET", "POST"])
def login() -> str | Response | tuple[str, int]:
    if request.method == "GET":
        return render_template("login.html")
    name = request.form.get("name", "")
    if not check_password_hash(USERS.get(name, NOBODY).password_hash, request.form.get("password", "")):
        return render_template("login.html", failed=True), 403
    session.clear()  # a new CSRF token with the new user
    session["user"] = name
    return redirect(url_for("room"))


@app.post("/logout")
def logout() -> Response:
    session.clear()
    return redirect(url_for("login"))


@app.post("/messages")
def post_message() -> tuple[str, int]:
    """Publish `text` to everyone in `room`."""
    user = current_user()
    if request.form.get("room") not in user.rooms:
        abort(403)
    text = request.form.get("text", "").strip()
    if not 0 < len(text) <= MAX_TEXT:
        abort(422)
    realtime.trigger(request.form["room"], "message", {"from": session["user"], "text": text})
    return "", 204


@app.post("/pusher/auth")
def authorize() -> dict[str, str]:
    """Sign a subscription: pusher-js asks here before it subscribes to a private channel."""
    user = current_user()
    channel = request.form.get("channel_name", "")
    if channel not in user.rooms:
        abort(403)
    try:
        signed: dict[str, str] = realtime.authenticate(channel, request.form.get("socket_id", ""))
    except ValueError:
        abort(400)
    return signed


@app.route("/echo", websocket=True)
def echo() -> str:
    """A WebSocket of the site's own: it sends back what it gets, until the browser closes it."""
    if request.headers.get("Origin", "").partition("://")[2] != request.host:
        abort(403)  # browsers let every site open a WebSocket to this one
    socket = request.environ["wsgi.websocket"]
    while (message := socket.receive()) is not None:
        socket.send(message)
    return ""
