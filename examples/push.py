"""Push a text to clients in Python: pip install nats-py; python push.py TARGET TEXT [HUB].

TARGET is all, user:NAME, group:NAME or conn:ID. See README.md.
"""

import asyncio
import json
import os
import sys

import nats
from nats.errors import NoRespondersError

TARGET, TEXT = sys.argv[1:3]
HUB = sys.argv[3] if len(sys.argv) > 3 else "default"


def token(name):
    """A user's or group's name as one token of a subject."""
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    return "".join(chr(b) if b in plain else f"={b:02X}" for b in name.encode())


def subject(target):
    kind, _, name = target.partition(":")
    end = kind if kind == "all" else f"{kind}.{name if kind == 'conn' else token(name)}"
    return f"moorline.{HUB}.out.{end}"


async def main():
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    try:  # Without caring who got it: client.publish(subject(TARGET), TEXT.encode())
        answer = await client.request(subject(TARGET), TEXT.encode(), timeout=2)
        print(json.loads(answer.data)["deliveries"], "connections of the first node to answer")
    except NoRespondersError:
        print("no node has anybody there")
    await client.close()


asyncio.run(main())
