"""Python `websockets` as a user would use it, against an echo: text and binary of many lengths, a
fragmented message, a ping, an orderly close. Prints one line of JSON; exits 1 when anything is off.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

# The lengths around which the frame header changes its form (RFC 6455 section 5.2), and large ones.
LENGTHS = [1, 125, 126, 127, 4096, 40_000]
DEADLINE = 30


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", help="PEM file with the authority of the server's certificate")
    trust.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--token", help="sent as Authorization: Bearer")
    parser.add_argument("--subprotocol", action="append", help="offered, in this order")
    parser.add_argument("--count", type=int, default=20, help="messages of each kind")
    return parser.parse_args()


def trust(args):
    if not args.url.startswith("wss:"):
        return None
    context = ssl.create_default_context(cafile=args.ca)
    if args.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def echoed(socket, message, expected=None):
    expected = message if expected is None else expected
    await socket.send(message)
    answer = await socket.recv()
    if answer != expected:
        raise AssertionError(
            f"sent {type(expected).__name__} of {len(expected)}, "
            f"got {type(answer).__name__} of {len(answer)}: {answer[:60]!r}"
        )


async def run(args):
    headers = {"Authorization": f"Bearer {args.token}"} if args.token else {}
    started = time.monotonic()
    async with connect(
        args.url,
        ssl=trust(args),
        additional_headers=headers,
        subprotocols=args.subprotocol,
        compression=None,
        proxy=None,
    ) as socket:
        for i in range(args.count):
            length = LENGTHS[i % len(LENGTHS)]
            await echoed(socket, (f"{i} grüße 世界 " * length)[:length])
            await echoed(socket, bytes((i + n) % 256 for n in range(length)))
        await echoed(socket, ["in ", "three ", "fragments"], "in three fragments")
        rtt = await (await socket.ping())
    return {
        "ok": True,
        "text": args.count + 1,
        "binary": args.count,
        "subprotocol": socket.subprotocol,
        "connection_id": socket.response.headers.get("Moorline-Connection-Id"),
        "ping_ms": round(rtt * 1000, 3),
        "close_code": socket.close_code,
        "close_reason": socket.close_reason,
        "seconds": round(time.monotonic() - started, 3),
    }


async def main():
    try:
        result = await asyncio.wait_for(run(arguments()), DEADLINE)
    except InvalidStatus as refused:
        result = {"ok": False, "error": str(refused), "status": refused.response.status_code}
    except Exception as error:
        result = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))
    return 0 if result["ok"] else 1


sys.exit(asyncio.run(main()))
