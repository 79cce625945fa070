#!/usr/bin/env python3
"""The end of a session."""

import os

import sessions

if os.environ["REQUEST_METHOD"] == "POST":
    sessions.end()
print("Status: 303 See Other\nLocation: /login.py\n")
