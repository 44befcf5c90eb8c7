"""The site's addresses. `/app/`, `/apps/` and `/up` are Resonate's, before Django sees them."""

from django.contrib.auth.views import LoginView, LogoutView
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import path

from chat import views

urlpatterns = [
    path("", views.room, name="room"),
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("messages/", views.post_message, name="messages"),
    path("pusher/auth/", views.authorize, name="authorize"),
    *staticfiles_urlpatterns(),  # only with DEBUG; otherwise the web server in front serves STATIC_ROOT
]
