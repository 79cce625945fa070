"""What is new: one endpoint, which gets all that happens on WebSockets. `ws_events:app` serves both."""

import os
from hmac import compare_digest

from flask import abort, request, session

from app import app, entries

SECRET = os.environ["WS_SECRET"].encode()


@app.post("/ws-events")
def ws_events():
    if not compare_digest(request.headers.get("moorline-secret", "").encode(), SECRET):
        abort(403)  # Somebody else than moorline.
    if "user" not in session:  # The client's own cookie comes with every event.
        return "log in first", 401, {"moorline-status": "401"}
    if request.headers["ce-type"] == "moorline.connect":
        return {"user_id": session["user"]}
    entries.append(f"{session['user']}: {request.get_data(as_text=True)}")
    return f"entry {len(entries)} is written"
