"""Bare Flask with everything imported that Pipit imports from elsewhere: what its start costs before its first line."""

import alembic  # noqa: F401
import argon2  # noqa: F401
import flask_migrate  # noqa: F401
import flask_session.redis  # noqa: F401
import flask_sqlalchemy  # noqa: F401
import flask_wtf.csrf  # noqa: F401
import linkify_it  # noqa: F401
import msgspec  # noqa: F401
import redis  # noqa: F401
import regex  # noqa: F401
import sqlalchemy.orm  # noqa: F401
import whitenoise  # noqa: F401
import wtforms  # noqa: F401

from bench.peers.bare_flask import application

__all__ = ["application"]
