"""Command connections in Python: pip install nats-py; python control.py TARGET COMMAND [HUB].

TARGET is all, user:NAME, group:NAME or conn:ID; COMMAND is JSON. See CONTRACT.md.
"""

import asyncio
import json
import os
import sys

import nats

TARGET, COMMAND = sys.argv[1:3]
HUB = sys.argv[3] if len(sys.argv) > 3 else "default"


def token(name):
    """A user's or group's name as one token of a subject."""
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    return "".join(chr(b) if b in plain else f"={b:02X}" for b in name.encode())


def subject(target):
    kind, _, name = target.partition(":")
    end = kind if kind == "all" else f"{kind}.{name if kind == 'conn' else token(name)}"
    return f"moorline.{HUB}.ctl.{end}"


async def answers(client, timeout=2):
    """One answer of each node, until all have answered that are alive."""
    inbox = client.new_inbox()
    replies = await client.subscribe(inbox)
    await client.publish(subject(TARGET), COMMAND.encode(), reply=inbox)
    nodes, heard = 1 if TARGET.startswith("conn:") else None, set()
    try:
        while nodes is None or len(heard) < nodes:
            # While nobody knows how many there are, a short silence is the end.
            wait = timeout if not heard or nodes else 0.1
            reply = await replies.next_msg(timeout=wait)
            if reply.headers and reply.headers.get("Status") == "503":
                return  # no responders: gone, or no node serves the hub
            answer = json.loads(reply.data)
            heard.add(answer["node"])
            nodes = nodes or answer.get("nodes")
            yield answer
    except nats.errors.TimeoutError:
        pass  # a node says nothing, or there are no more


async def main():
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    async for answer in answers(client):
        print(json.dumps(answer))
    await client.close()


asyncio.run(main())
