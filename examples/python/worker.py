"""A moorline worker in Python: pip install nats-py; python worker.py [HUB]. See ../README.md."""

import asyncio
import json
import os
import signal
import sys
from urllib.parse import unquote

import nats

HUB = sys.argv[1] if len(sys.argv) > 1 else "default"
SUBJECT = f"moorline.{HUB}.in.*"


def answer(event, user, headers, data):
    """The reply to one event: payload and headers."""
    if event == "moorline.connect":
        offer = json.loads(data)
        if "deny=1" in offer["query"].split("&"):
            return b"denied", {"moorline-status": "403"}
        grant = {"state": "0", "user_id": user}
        return json.dumps(grant, separators=(",", ":"), ensure_ascii=False).encode(), {}
    if event != "moorline.message":
        return b"", {}
    count = int(headers.get("ce-state") or 0) + 1
    state = {"moorline-state": str(count)}
    if headers["ce-datacontenttype"] == "application/octet-stream":
        return data[::-1], state
    if data == b"refuse":
        return b"refused", {"moorline-status": "422"}
    if data == b"bye":
        return b"BYE", {"moorline-close": "4000 bye"}
    return f"{user} {count}: ".encode() + data.upper(), state


async def main():
    client = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1
    )

    async def handle(request):
        headers = request.headers or {}
        user = unquote(headers.get("ce-userid", "guest"))
        payload, reply = answer(headers.get("ce-type"), user, headers, request.data)
        await client.publish(request.reply, payload, headers=reply)

    await client.subscribe(SUBJECT, queue="workers", cb=handle)
    await client.flush()
    print("ready:", SUBJECT, file=sys.stderr)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await client.drain()  # Leaves the queue group, then finishes what is in flight.


asyncio.run(main())
