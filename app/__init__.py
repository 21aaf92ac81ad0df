"""Pipit: a microblog that keeps its posts in SQL and everything fast-moving in Redis."""

from flask import Flask

from app.background import init_background
from app.cache import init_cache
from app.config import Config
from app.daily_counts import init_daily_counts
from app.extensions import init_extensions
from app.follower import init_follower
from app.front.application import Front
from app.front.assets import Assets, digest
from app.mail import init_mail
from app.rate_limit import init_limiter
from app.redis_client import init_store
from app.sessions import init_sessions
from app.web import init_web


def create_front() -> Front:
    """Return Pipit as gunicorn serves it: behind an event loop, an ASGI application."""
    return Front(create_app())


def create_app(config: Config | None = None) -> Flask:
    """Build the app from `config`, or from the environment if `config` is None.

    The app is a complete Pipit under any WSGI server, only slower than behind the front.

    Raises ConfigError, which ends the process with a readable message, if the environment can't be used.
    """
    config = config or Config.load()
    app = Flask(__name__, static_folder=None)
    app.extensions["config"] = config
    assets = Assets(app)
    store = init_store(app, config)
    init_extensions(app, config)
    init_follower(app)
    init_sessions(app, config, store)
    shown = config.site_name, config.site_url, config.source_url, config.reading, config.registration
    init_cache(app, config, store, version=digest(f"{assets.version} {shown}".encode()))
    init_limiter(app, config, store)
    init_mail(app, config)
    init_background(app, store)
    init_daily_counts(app, store)
    init_web(app, config, assets)
    if config.runs_commands:
        from app.cli import init_cli  # a web process is smaller and starts sooner without the commands

        init_cli(app)
    return app
