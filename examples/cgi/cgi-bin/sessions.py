"""Sessions as PHP keeps them: a file each, named by the cookie, with the user's name in it."""

import os
import re
import secrets
from http.cookies import SimpleCookie
from pathlib import Path

FOLDER = Path("sessions")


def begin(user):
    """A new session: the value of its cookie."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    token = secrets.token_hex(16)
    (FOLDER / token).write_text(user)
    return token


def file():
    cookie = SimpleCookie(os.environ.get("HTTP_COOKIE", "")).get("session")
    if cookie and re.fullmatch("[0-9a-f]{32}", cookie.value):
        return FOLDER / cookie.value


def user():
    """Who asks, or None."""
    return file().read_text() if file() and file().exists() else None


def end():
    if file():
        file().unlink(missing_ok=True)
