"""The room, posting into it, and the signing of subscriptions to private channels."""

from __future__ import annotations

import pusher
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

LOBBY = "lobby"
STAFF = "private-staff"
MAX_TEXT = 500

realtime = pusher.Pusher(**settings.REALTIME)


def rooms_of(user: AbstractBaseUser | AnonymousUser) -> list[str]:
    """The channels that the user may read and write: none for who is not signed in."""
    if not user.is_authenticated:
        return []
    return [LOBBY, STAFF] if user.is_staff else [LOBBY]


@require_GET
@login_required
def room(request: HttpRequest) -> HttpResponse:
    context = {
        "rooms": rooms_of(request.user),
        "key": settings.REALTIME["key"],
        "pusher_js_url": settings.PUSHER_JS_URL,
    }
    return render(request, "chat/room.html", context)


@require_POST
def post_message(request: HttpRequest) -> HttpResponse:
    """Publish `text` to everyone in `room`."""
    channel = request.POST.get("room", "")
    if channel not in rooms_of(request.user):
        raise PermissionDenied
    text = request.POST.get("text", "").strip()
    if not 0 < len(text) <= MAX_TEXT:
        return HttpResponse(status=422)
    realtime.trigger(channel, "message", {"from": request.user.get_username(), "text": text})
    return HttpResponse(status=204)


@require_POST
def authorize(request: HttpRequest) -> HttpResponse:
    """Sign a subscription: pusher-js asks here before it subscribes to a private channel."""
    channel = request.POST.get("channel_name", "")
    if channel not in rooms_of(request.user):
        raise PermissionDenied
    try:
        return JsonResponse(realtime.authenticate(channel, request.POST.get("socket_id", "")))
    except ValueError:
        return HttpResponseBadRequest("Not a socket id.")
