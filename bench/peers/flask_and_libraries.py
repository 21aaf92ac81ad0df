"""Bare Flask with everything imported that Pipit imports from elsewhere: what its start costs before its first line."""

import alembic
import argon2
import flask_migrate
import flask_session.redis
import flask_sqlalchemy
import flask_wtf.csrf
import linkify_it
import msgspec
import redis
import regex
import sqlalchemy.orm
import whitenoise
import wtforms

from bench.peers.bare_flask import application

__all__ = ["application"]
