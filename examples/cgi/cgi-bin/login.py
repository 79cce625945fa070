#!/usr/bin/env python3
"""The login: a form, and a session for who knows the password."""

import os
import sys
from hmac import compare_digest
from urllib.parse import parse_qs

import sessions

PASSWORDS = {"alice": "wonderland", "bob": "builder"}

form = {}
if os.environ["REQUEST_METHOD"] == "POST":
    form = {name: values[0] for name, values in parse_qs(sys.stdin.read()).items()}
user, password = form.get("user"), form.get("password", "")
if user in PASSWORDS and compare_digest(PASSWORDS[user].encode(), password.encode()):
    print("Status: 303 See Other\nLocation: /")
    print(f"Set-Cookie: session={sessions.begin(user)}; Path=/; HttpOnly; SameSite=Lax\n")
else:
    print("Status: 403 Forbidden" if form else "Status: 200 OK")
    print("Content-Type: text/html; charset=utf-8\n")
    print('<form method="post"><input name="user"><input name="password" type="password"><button>Log in</button></form>')
