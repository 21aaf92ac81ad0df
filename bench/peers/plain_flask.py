"""The plain Flask way: Flask-Session as it comes, and a view that reads the cached page from Redis.

Session-aware: where the page says <!--viewer-->, a signed-in visitor reads their name. The same as express/server.js.
"""

import os

from flask import Flask, session
from flask_session import Session
from redis import Redis

redis = Redis.from_url(os.environ["REDIS_URL"])
application = Flask(__name__, static_folder=None)
application.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis)
Session(application)


@application.get("/")
def latest() -> str:
    """Return the page as this visitor sees it."""
    page = redis.get("bench:page")
    assert isinstance(page, bytes)
    name = session.get("name")
    return page.decode().replace("<!--viewer-->", f"@{name}" if name else "Log in")


@application.get("/login/<name>")
def log_in(name: str) -> str:
    """Sign a visitor in."""
    session["name"] = name
    return "ok"
