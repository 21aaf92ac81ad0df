"""What a part of a URL may be."""

from typing import Any

from werkzeug.routing import IntegerConverter, Map

from app.models.pagination import LARGEST_ID


class IdConverter(IntegerConverter):
    """An id: as the databases count them, or negative, of an imported post. Anything else in its place is a 404."""

    regex = "-?[1-9][0-9]{0,18}"  # IntegerConverter's own takes the digits of every script, and leading zeros

    def __init__(self, url_map: Map, **options: Any) -> None:
        super().__init__(url_map, min=-LARGEST_ID, max=LARGEST_ID, signed=True, **options)
