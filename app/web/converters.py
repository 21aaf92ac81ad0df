"""What a part of a URL's path may be, and the ids in its query."""

from typing import Any

from flask import abort, request
from werkzeug.routing import BaseConverter, IntegerConverter, Map

from app.models.accounts import DIGEST_LENGTH
from app.models.pagination import LARGEST_ID, parse_id


class IdConverter(IntegerConverter):
    """An id: as the databases count them, or negative, of an imported post. Anything else in its place is a 404."""

    regex = "-?[1-9][0-9]{0,18}"  # IntegerConverter's own takes the digits of every script, and leading zeros

    def __init__(self, url_map: Map, **options: Any) -> None:
        super().__init__(url_map, min=-LARGEST_ID, max=LARGEST_ID, signed=True, **options)


class TagConverter(BaseConverter):
    """A hashtag, in any spelling, without a NUL, which PostgreSQL rejects in any text."""

    regex = "[^/\0]+"
    part_isolating = True  # Werkzeug guesses that it is not, from the slash in the regex


class DigestConverter(BaseConverter):
    """The digest that a picture is named after."""

    regex = f"[0-9a-f]{{{DIGEST_LENGTH}}}"


def before() -> int | None:
    """Return the id in ?before=, or None if it is absent; an invalid id is a 404."""
    return id_in_query("before")


def id_in_query(name: str) -> int | None:
    """Return the id in a parameter of the query, or None if it is absent; an invalid id is a 404."""
    text = request.args.get(name)
    return None if text is None else parse_id(text) or abort(404)
