"""Views that take more than a form of text: how large a body each of them takes, declared beside its route.

The front asks before it reads a body (app/front/protocol.py); Flask does while it reads one, whatever server it has.
"""

from collections.abc import Callable
from typing import TypeVar

from flask import Flask, request

V = TypeVar("V", bound=Callable[..., object])


def takes_upload(most: int) -> Callable[[V], V]:
    """Have a view take a body of up to `most` bytes, in place of bridge.MAX_CONTENT_LENGTH.

    The front reads such a body only for somebody who is signed in. The view's route has no variable parts.
    """

    def decorate(view: V) -> V:
        view.largest_body = most  # type: ignore[attr-defined]  # read by init_uploads()
        return view

    return decorate


def init_uploads(app: Flask) -> None:
    """Find the views that take uploads, all blueprints being registered."""
    largest: dict[str, int] = {}  # by path
    for rule in app.url_map.iter_rules():
        most: int | None = getattr(app.view_functions[rule.endpoint], "largest_body", None)
        if most is not None:
            if rule.arguments:
                raise ValueError(f"{rule.rule} takes uploads, so it can't have variable parts")
            largest[rule.rule] = most
    app.extensions["largest_bodies"] = largest

    @app.url_value_preprocessor  # runs before the check of the CSRF token, which reads the form
    def allow_upload(_endpoint: str | None, _arguments: dict[str, object] | None) -> None:
        if request.path in largest:
            request.max_content_length = largest[request.path]
