"""A Django service for WebSocket clients, by django-grip as it comes from PyPI.

It knows each client by what it keeps in `meta`, nothing stays in the process but the list of ends.
"""

import json
import os
import socketserver
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[__name__ + ".subprotocol", "django_grip.GripMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only-for-tests",
    GRIP_PROXIES=[
        {"control_uri": os.environ["CONTROL_URI"], "control_iss": "realm", "key": os.environ["KEY"]}
    ],
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django_grip import publish, websocket_only
from gripcontrol import WebSocketMessageFormat

ended = []


def subprotocol(get_response):
    """django-grip makes a response of its own, so what a view says in headers is lost."""

    def middleware(request):
        response = get_response(request)
        if "v2" in request.headers.get("Sec-WebSocket-Protocol", ""):
            response["Sec-WebSocket-Protocol"] = "v2"
        return response

    return middleware


@websocket_only
def room(request, name):
    if not request.grip.signed:
        return HttpResponse("unsigned", status=401)
    ws = request.wscontext
    if ws.is_opening():
        if request.GET.get("deny"):
            return HttpResponse("denied", status=403, content_type="text/plain")
        ws.accept()
        ws.subscribe(name)
        ws.meta["count"] = "0"
        ws.send("welcome to " + name)
    while ws.can_recv():
        try:
            message = ws.recv()
        except OSError:
            ended.append("gone")
            break
        if message is None:
            ended.append("closed %s" % ws.close_code)
            ws.close()
        elif isinstance(message, bytes):
            ws.send_binary(message[::-1])
        elif message.startswith("publish to "):
            channel, text = message[len("publish to ") :].split(": ", 1)
            publish(channel, WebSocketMessageFormat(text), blocking=True)
            ws.send("published")
        elif message == "leave":
            ws.unsubscribe(name)
            ws.send("left")
        elif message == "bye":
            ws.send("bye")
            ws.close(4001)
        else:
            ws.meta["count"] = str(int(ws.meta["count"]) + 1)
            ws.send(ws.meta["count"] + " " + message.upper())
    return HttpResponse()


def ends(request):
    return HttpResponse(json.dumps(ended), content_type="application/json")


urlpatterns = [path("ws/<name>", room), path("ended", ends)]


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class Handler(WSGIRequestHandler):
    def log_message(self, *args):
        pass


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.set_app(get_wsgi_application())
server.serve_forever()
