"""The HTML of posts in lists, rendered once and kept in the process: a list is a query for ids and a join of strings.

A post's HTML is the same for everyone. Where visitors see something else, it has a hole (app/web/holes.py), with its
marker. It is kept by id, for posts don't change; a post that could be edited would need its version in the key.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

from flask import Flask, current_app
from markupsafe import Markup

from app.models import Post
from app.models.pagination import Pagination

LIFETIME = 60  # s; then a mention of a new account becomes a link, and a date of last year says so
MOST_BYTES = 2_000_000  # of some 1,800 posts of usual length
OVERHEAD = 350  # bytes an entry takes beside its HTML


@dataclass(frozen=True, slots=True)
class Rendered:
    """A post's HTML."""

    html: Markup
    expires: float  # s, on the monotonic clock

    @property
    def size(self) -> int:
        return sys.getsizeof(self.html) + OVERHEAD


class PostHTML:
    """The HTML of the posts that this process has shown lately."""

    def __init__(self, app: Flask) -> None:
        self._templates = app.jinja_env
        self._lock = Lock()
        self._kept: OrderedDict[int, Rendered] = OrderedDict()  # by the post's id, least recently used first
        self._bytes = 0

    def of(self, ids: Collection[int]) -> list[Markup]:
        """Return the HTML of these posts, in this order; a post that no longer exists is left out."""
        found = self._find(ids)
        unknown = [post_id for post_id in ids if post_id not in found]
        if unknown:
            found |= self._render(unknown)
        return [found[post_id] for post_id in ids if post_id in found]

    def _find(self, ids: Collection[int]) -> dict[int, Markup]:
        now = time.monotonic()
        found = {}
        with self._lock:
            for post_id in ids:
                rendered = self._kept.get(post_id)
                if rendered is not None and rendered.expires > now:
                    self._kept.move_to_end(post_id)
                    found[post_id] = rendered.html
        return found

    def _render(self, ids: Collection[int]) -> dict[int, Markup]:
        """Load these posts, render them and keep their HTML."""
        expires = time.monotonic() + LIFETIME
        show_post = self._templates.get_template("_post.html").module.show_post  # type: ignore[attr-defined]
        html: dict[int, Markup] = {post.id: show_post(post) for post in Post.all_shown(ids)}
        with self._lock:
            for post_id, text in html.items():
                self._keep(post_id, Rendered(text, expires))
        return html

    def _keep(self, post_id: int, rendered: Rendered) -> None:
        old = self._kept.pop(post_id, None)
        self._kept[post_id] = rendered
        self._bytes += rendered.size - (old.size if old else 0)
        while self._bytes > MOST_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].size


def listed(posts: Pagination[int]) -> Pagination[Markup]:
    """Return a page of posts as HTML, given their ids."""
    html: PostHTML = current_app.extensions["post_html"]
    return Pagination(html.of(posts.items), posts.before, posts.older)
