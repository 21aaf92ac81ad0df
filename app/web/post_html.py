"""The HTML of posts in lists, rendered once and kept in the process: a list is a query for ids and a join of strings.

A post's HTML is the same for everyone. Where visitors see something else, it has a hole (app/web/holes.py), with its
marker. It is kept until the post is edited. What changes often, the numbers of replies and likes, comes with the ids,
and is put in last.
"""

import re
import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from flask import Flask, current_app
from markupsafe import Markup

from app.extensions import release_connection
from app.models import Post
from app.models.pagination import Pagination, shown_count
from app.models.posts import Listed

LIFETIME = 60  # s; then a mention of a new account becomes a link, and a date of last year says so
MOST_BYTES = 1_500_000  # of some 1,300 posts of usual length
OVERHEAD = 500  # bytes an entry takes beside its HTML
# They stand for numbers that are put in last; people's text is escaped, so no post can contain them.
REPLIES, LIKES = Markup("<!--replies-->"), Markup("<!--likes-->")
NUMBERS = re.compile(f"{REPLIES}|{LIKES}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A post's HTML."""

    before_replies: str
    before_likes: str
    rest: str
    edited_at: datetime | None
    expires: float  # s, on the monotonic clock

    @property
    def size(self) -> int:
        return sum(map(sys.getsizeof, (self.before_replies, self.before_likes, self.rest))) + OVERHEAD

    def html(self, post: Listed) -> Markup:
        """Return the HTML of the post as it is now."""
        replies, likes = replies_in_words(post.replies), shown_count(post.likes) if post.likes else ""
        numbered = f"{self.before_replies}{replies}{self.before_likes}{likes}{self.rest}"
        return Markup(numbered)  # noqa: S704  # rendered


class PostHTML:
    """The HTML of the posts that this process has shown lately."""

    def __init__(self, app: Flask) -> None:
        self._templates = app.jinja_env
        self._lock = Lock()
        self._kept: OrderedDict[int, Rendered] = OrderedDict()  # by the post's id, least recently used first
        self._bytes = 0

    def by_id(self, posts: Sequence[Listed]) -> dict[int, Markup]:
        """Return the HTML of these posts, in this order, by their ids; a post that no longer exists is left out."""
        found = self._find(posts)
        unknown = [post.id for post in posts if post.id not in found]
        if unknown:
            found |= self._render(unknown)
        return {post.id: found[post.id].html(post) for post in posts if post.id in found}

    def _find(self, posts: Collection[Listed]) -> dict[int, Rendered]:
        now = time.monotonic()
        found = {}
        with self._lock:
            for post in posts:
                rendered = self._kept.get(post.id)
                if rendered is not None and rendered.expires > now and rendered.edited_at == post.edited_at:
                    self._kept.move_to_end(post.id)
                    found[post.id] = rendered
        return found

    def _render(self, ids: Collection[int]) -> dict[int, Rendered]:
        """Load these posts, render them and keep their HTML."""
        expires = time.monotonic() + LIFETIME
        show_post = self._templates.get_template("_post.html").module.show_post  # type: ignore[attr-defined]
        found = {}
        posts = Post.all_shown(ids)
        release_connection()
        for post in posts:
            before_replies, before_likes, rest = NUMBERS.split(show_post(post, REPLIES, LIKES))
            found[post.id] = Rendered(before_replies, before_likes, rest, post.edited_at, expires)
        with self._lock:
            for post_id, rendered in found.items():
                self._keep(post_id, rendered)
        return found

    def _keep(self, post_id: int, rendered: Rendered) -> None:
        old = self._kept.pop(post_id, None)
        self._kept[post_id] = rendered
        self._bytes += rendered.size - (old.size if old else 0)
        while self._bytes > MOST_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].size


def listed(posts: Pagination[Listed]) -> Pagination[Markup]:
    """Return a page of posts as HTML."""
    return Pagination(html_of(posts.items), posts.before, posts.older)


def listed_below(posts: Pagination[Listed], pinned: Sequence[Listed]) -> tuple[Pagination[Markup], list[Markup]]:
    """Return a page of posts as HTML, without those that are pinned above it, and these."""
    html = html_by_id([*pinned, *posts.items])
    above = [html.pop(post.id) for post in pinned if post.id in html]
    return Pagination(list(html.values()), posts.before, posts.older), above


def html_of(posts: Sequence[Listed]) -> list[Markup]:
    """Return the HTML of these posts, in this order; a post that no longer exists is left out."""
    return list(html_by_id(posts).values())


def html_by_id(posts: Sequence[Listed]) -> dict[int, Markup]:
    """Return the HTML of these posts, in this order, by their ids; a post that no longer exists is left out."""
    html: PostHTML = current_app.extensions["post_html"]
    return html.by_id(posts)


def replies_in_words(replies: int) -> str:
    """Return what a post's link to its replies says."""
    if not replies:
        return "Reply"
    return "1 reply" if replies == 1 else f"{shown_count(replies)} replies"
