"""Settings of the chat; what differs from place to place comes from the environment."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ],
        },
    },
]

ROOT_URLCONF = "chat.urls"
WSGI_APPLICATION = "chat.wsgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "room"
LOGOUT_REDIRECT_URL = "login"

# The server that this very process is: the variables are the ones that it reads itself.
REALTIME = {
    "app_id": os.environ["REVERB_APP_ID"],
    "key": os.environ["REVERB_APP_KEY"],
    "secret": os.environ["REVERB_APP_SECRET"],
    "host": os.environ.get("REVERB_HOST", "127.0.0.1"),
    "port": int(os.environ.get("REVERB_PORT", "8000")),
    "ssl": os.environ.get("REVERB_SCHEME") == "https",
}

# Set it when browsers reach the site over https: cookies are sent over nothing else then.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = os.environ.get("SITE_HTTPS") == "1"
PUSHER_JS_URL = os.environ.get("PUSHER_JS_URL", "https://cdn.jsdelivr.net/npm/pusher-js@8.6.0/dist/web/pusher.min.js")
