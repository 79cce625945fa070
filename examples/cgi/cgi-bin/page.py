#!/usr/bin/env python3
"""The page, for who has logged in."""

from html import escape

import sessions

user = sessions.user()
if user:
    print("Content-Type: text/html; charset=utf-8\n")
    print(f"<h1>Hello, {escape(user)}</h1>")
    print('<form method="post" action="/logout.py"><button>Log out</button></form>')
else:
    print("Status: 303 See Other\nLocation: /login.py\n")
