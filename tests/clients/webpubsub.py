"""The server SDK of Azure Web PubSub for Python as a backend would use it, against the management API:
send to all, a user, a group, a connection; exists; join, leave; close. What reached the clients is looked
at by who started this. Prints one line of JSON; exits 1 when anything is off.

USER has CONNECTION and another one, and is in no group; OTHER is somebody else's connection.
"""

import argparse
import io
import json
import sys
import traceback

from azure.core.exceptions import HttpResponseError
from azure.messaging.webpubsubservice import WebPubSubServiceClient

TEXT = {"content_type": "text/plain"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["connection_string", "hub", "user", "group", "connection", "other"]:
        parser.add_argument(name)
    return parser.parse_args()


def client(connection_string, hub):
    return WebPubSubServiceClient.from_connection_string(connection_string, hub=hub, retry_total=0)


def same(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def refused(call, *given, **named):
    try:
        call(*given, **named)
    except HttpResponseError as error:
        return error.status_code, error.error.code if error.error else None
    raise AssertionError("it was not refused")


def run(args):
    service = client(args.connection_string, args.hub)
    user, group, connection, other = args.user, args.group, args.connection, args.other

    service.send_to_all("to all", **TEXT)
    service.send_to_all({"to": "all"}, content_type="application/json")
    service.send_to_all(io.BytesIO(b"\x00\xff"), content_type="application/octet-stream")
    service.send_to_all("to all but one", excluded=[connection], **TEXT)
    service.send_to_user(user, "to the user", **TEXT)
    service.send_to_connection(connection, "to the connection", **TEXT)

    same(service.group_exists(group), False)
    service.add_connection_to_group(group, connection)
    same(service.group_exists(group), True)
    service.send_to_group(group, "to the group of one", **TEXT)
    service.add_user_to_group(group, user)
    service.add_connection_to_group(group, other)
    listed = [(member.connection_id, member.user_id) for member in service.list_connections(group=group)]
    same(len(listed), 3)
    same((connection, user) in listed, True)
    service.send_to_group(group, "to the group", **TEXT)
    service.send_to_group(group, "to the group but one", excluded=[other], **TEXT)
    service.remove_connection_from_group(group, other)
    service.remove_user_from_group(group, user)
    service.send_to_group(group, "to nobody", **TEXT)
    same(service.group_exists(group), False)
    service.add_user_to_group(group, user)
    service.add_connection_to_group(group, other)
    service.send_to_group(group, "to all in the group", **TEXT)
    service.remove_connection_from_all_groups(connection)
    service.remove_user_from_all_groups(user)
    service.remove_connection_from_all_groups(other)
    same(service.group_exists(group), False)

    same(service.connection_exists(connection), True)
    same(service.connection_exists("nobody"), False)
    same(service.user_exists(user), True)
    same(service.user_exists("nobody"), False)

    same(refused(service.send_to_all, "x", filter="userId eq 'a'", **TEXT), (400, "BadRequest"))
    same(refused(service.add_connection_to_group, group, "nobody"), (404, "ConnectionNotFound"))
    same(refused(service.grant_permission, "sendToGroup", connection), (501, "NotImplemented"))
    endpoint = args.connection_string.split("AccessKey=")[0]
    stranger = client(f"{endpoint}AccessKey={'x' * 64};Version=1.0;", args.hub)
    same(refused(stranger.send_to_all, "x", **TEXT), (401, "Unauthorized"))
    elsewhere = client(args.connection_string, "none")
    same(refused(elsewhere.send_to_all, "x", **TEXT), (404, "HubNotFound"))

    service.close_connection(connection, reason="enough")
    service.close_user_connections(user, reason="enough of you")
    service.close_all_connections(reason="enough of all", excluded=[other])
    service.send_to_connection(other, "still here", **TEXT)
    service.close_group_connections(group)
    service.close_all_connections(reason="enough of all")
    service.close_connection(connection)


def main():
    result = {"ok": True}
    try:
        run(arguments())
    except Exception:
        result = {"ok": False, "error": traceback.format_exc()}
    print(json.dumps(result))
    return 0 if result["ok"] else 1


sys.exit(main())
