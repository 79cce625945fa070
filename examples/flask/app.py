"""The application as it always was: a login, a page, a form. Nothing here knows of WebSockets."""

import secrets
from hmac import compare_digest

from flask import Flask, redirect, render_template_string, request, session

app = Flask(__name__)
app.secret_key = secrets.token_bytes()  # Logins end with the process.
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
entries = ["the first entry"]

LOGIN = """<form method="post"><input name="user"><input name="password" type="password"><button>Log in</button></form>"""
PAGE = """<h1>Guest book of {{ user }}'s friends</h1>
<ul>{% for entry in entries %}<li>{{ entry }}</li>{% endfor %}</ul>
<form method="post" action="/entries"><input name="entry"><button>Write</button></form>"""


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "GET":
        return LOGIN
    user = request.form["user"]
    if user not in PASSWORDS or not compare_digest(PASSWORDS[user].encode(), request.form["password"].encode()):
        return LOGIN, 403
    session["user"] = user
    return redirect("/")


@app.get("/")
def page():
    if "user" not in session:
        return redirect("/login")
    return render_template_string(PAGE, user=session["user"], entries=entries)


@app.post("/entries")
def write():
    if "user" not in session:
        return redirect("/login")
    entries.append(f"{session['user']}: {request.form['entry']}")
    return redirect("/")
