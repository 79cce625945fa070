"""A moorline worker behind HTTP, with nothing but Python: python http_worker.py [PORT]. See ../README.md."""

import hmac
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SECRET = os.fsencode(os.environ.get("MOORLINE_SECRET", ""))


def answer(event, user, headers, data):
    """The answer to one event: status, body and headers."""
    if event == "moorline.connect":
        offer = json.loads(data)
        if "deny=1" in offer["query"].split("&"):
            return 403, b"denied", {"moorline-status": "403"}
        grant = {"state": "0", "user_id": user}
        return 200, json.dumps(grant, separators=(",", ":"), ensure_ascii=False).encode(), {}
    if event != "moorline.message":
        return 200, b"", {}
    count = int(headers.get("ce-state") or 0) + 1
    state = {"moorline-state": str(count)}
    if headers["content-type"] == "application/octet-stream":
        return 200, data[::-1], state
    if data == b"refuse":
        return 422, b"refused", {"moorline-status": "422"}
    if data == b"bye":
        return 200, b"BYE", {"moorline-close": "4000 bye"}
    return 200, f"{user} {count}: ".encode() + data.upper(), state


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        data = self.rfile.read(int(self.headers["content-length"]))
        secret = self.headers.get("moorline-secret", "").encode("latin-1")
        if not hmac.compare_digest(secret, SECRET):
            return self.reply(403, b"", {})
        user = unquote(self.headers.get("ce-userid", "guest"))
        self.reply(*answer(self.headers.get("ce-type"), user, self.headers, data))

    def reply(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 5000), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("ready:", server.server_port, file=sys.stderr)
server.serve_forever()
