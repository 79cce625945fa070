#!/usr/bin/env python3
"""What is new: one program, which is started for all that happens on WebSockets."""

import json
import os
import sys
from hmac import compare_digest

import sessions


def answer(body="", *headers):
    head = "\n".join(("Content-Type: text/plain; charset=utf-8", *headers))
    sys.stdout.buffer.write(f"{head}\n\n{body}".encode())
    sys.exit()


event, user = os.environ.get("HTTP_CE_TYPE"), sessions.user()
if not compare_digest(os.environb.get(b"HTTP_MOORLINE_SECRET", b""), os.environb[b"WS_SECRET"]):
    answer("", "Status: 403 Forbidden")  # Somebody else than moorline.
if event == "moorline.connect":
    if not user:
        answer("log in first", "Status: 401 Unauthorized", "moorline-status: 401")
    answer(json.dumps({"user_id": user}))
if not user:  # The session has ended since.
    answer("", "moorline-close: 4001 logged out")
# The process remembers nothing; moorline carries the count from one message to the next.
count = int(os.environ.get("HTTP_CE_STATE", "0")) + 1
text = sys.stdin.buffer.read().decode(errors="replace")
answer(f"{user} {count}: {text.upper()}", f"moorline-state: {count}")
