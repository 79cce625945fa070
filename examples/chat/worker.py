"""A chat in Python: pip install nats-py; python worker.py. See README.md.

It remembers nothing and may run as often as you like: moorline knows who is in which room, and
every event says the path, which is the room's, and the user.
"""

import asyncio
import json
import os
import signal
import sys
from urllib.parse import parse_qs, unquote

import nats

PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def subject(path):
    """Where pushes to the path's room go; any name is one token of a subject."""
    room = unquote(path.removeprefix("/chat/"))
    token = "".join(chr(b) if b in PLAIN else f"={b:02X}" for b in f"room-{room}".encode())
    return f"moorline.chat.out.group.{token}"


def welcome(offer):
    """Lets in whoever says a name. A real chat would look at a cookie or a token."""
    name = parse_qs(offer["query"]).get("name", [""])[0]
    if not 0 < len(name) <= 30 or not name.isprintable():
        return b"say your name: ?name=...", {"moorline-status": "400"}
    return json.dumps({"user_id": name}).encode(), {}


async def main():
    client = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1
    )

    async def handle(event):
        kind = event.headers["ce-type"].removeprefix("moorline.")
        if kind == "connect":
            payload, headers = welcome(json.loads(event.data))
            return await client.publish(event.reply, payload, headers=headers)
        # Who has no name was never let in: nobody answered the `connect` in time.
        if "ce-userid" in event.headers:
            said = {"kind": kind, "from": unquote(event.headers["ce-userid"])}
            if kind == "message":
                said["text"] = event.data.decode(errors="replace")
            room = subject(unquote(event.headers["ce-subject"]))
            await client.publish(room, json.dumps(said).encode())
        await client.publish(event.reply, b"")

    await client.subscribe("moorline.chat.in.*", queue="workers", cb=handle)
    await client.flush()
    print("ready", file=sys.stderr)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await client.drain()


asyncio.run(main())
