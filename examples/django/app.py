"""A Django application with django-grip, as behind Pushpin or Fanout: a login, and rooms to talk in."""

import os
from hmac import compare_digest

from django.conf import settings
from django.core.management.utils import get_random_secret_key

settings.configure(
    SECRET_KEY=get_random_secret_key(),  # Logins end with the process.
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django_grip.GripMiddleware",
    ],
    GRIP_URL=os.environ["GRIP_URL"],
)

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.shortcuts import redirect  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from django_grip import publish, websocket_only  # noqa: E402
from gripcontrol import WebSocketMessageFormat  # noqa: E402

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
LOGIN = """<form method="post"><input type="hidden" name="csrfmiddlewaretoken" value="{}">
<input name="user"><input name="password" type="password"><button>Log in</button></form>"""


def login(request):
    user, password = request.POST.get("user"), request.POST.get("password", "")
    if user in PASSWORDS and compare_digest(PASSWORDS[user].encode(), password.encode()):
        request.session["user"] = user
        return redirect("/")
    return HttpResponse(LOGIN.format(get_token(request)), status=403 if user else 200)


def page(request):
    user = request.session.get("user")
    return HttpResponse(f"<h1>Hello, {user}</h1>") if user else redirect("/login")


@csrf_exempt  # What is signed by moorline is no form.
@websocket_only
def room(request, name):
    socket, user = request.wscontext, request.session.get("user")
    if not request.grip.signed:
        return HttpResponse(status=403)
    if not user:  # The client's own cookie comes with every request.
        return HttpResponse("log in first", status=401)
    if socket.is_opening():
        socket.accept()
        socket.subscribe(name)
    while socket.can_recv():
        try:
            text = socket.recv()
        except OSError:  # The client is gone without a word.
            break
        if text is None:
            socket.close()
            break
        publish(name, WebSocketMessageFormat(f"{user}: {text}"), blocking=True)


urlpatterns = [path("", page), path("login", login), path("rooms/<str:name>", room)]
application = get_wsgi_application()
