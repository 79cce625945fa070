"""A web server as of old: each request starts a program of cgi-bin/ (RFC 3875). python server.py PORT"""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cgi-bin")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def serve(self):
        path, _, query = self.path.partition("?")
        program = os.path.join(PROGRAMS, path[1:] or "page.py")
        if "/" in path[1:] or not (os.path.isfile(program) and os.access(program, os.X_OK)):
            return self.send_error(404)
        if "transfer-encoding" in self.headers:
            return self.send_error(411)
        length = self.headers.get("content-length", "0")
        body = self.rfile.read(int(length))
        asked = {"HTTP_" + k.upper().replace("-", "_"): v for k, v in self.headers.items() if k.lower() != "proxy"}
        asked |= {"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": self.command, "SCRIPT_NAME": path}
        asked |= {"SERVER_PROTOCOL": self.request_version, "QUERY_STRING": query, "CONTENT_LENGTH": length}
        asked |= {"CONTENT_TYPE": self.headers.get("content-type", ""), "REMOTE_ADDR": self.client_address[0]}
        try:
            done = subprocess.run([program], input=body, stdout=subprocess.PIPE, env=os.environ | asked, timeout=20)
        except subprocess.TimeoutExpired:
            return self.send_error(504)
        if done.returncode != 0:
            return self.send_error(500)
        head, _, body = done.stdout.partition(b"\n\n")
        fields = [line.split(": ", 1) for line in head.decode("latin-1").splitlines()]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self.send_response(int(status[:3]), status[4:])
        for name, value in [*fields, ("Content-Length", str(len(body)))]:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = serve


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
