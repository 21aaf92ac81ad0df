"""The one place where a write meets the cache: the cached pages by name, and write(), which drops them.

A view that is decorated with @cached(LATEST_PAGE) shows the page that a write(LATEST_PAGE()) changes.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import CursorResult, Executable

from app.cache import STAMP, PageKind, current_cache
from app.extensions import db

# A page's arguments are those of its view, in alphabetical order. A user's name never changes.
LATEST_PAGE = PageKind("latest")
HOME_PAGE = PageKind("home")  # without the timeline
PROFILE_PAGE = PageKind("user")  # PROFILE_PAGE("ada")
REPLIES_PAGE = PageKind("user-replies")  # a user's posts and replies
FOLLOWERS_PAGE = PageKind("followers")
FOLLOWING_PAGE = PageKind("following")
POST_PAGE = PageKind("post")  # POST_PAGE("ada", 7)
LIKERS_PAGE = PageKind("likers")  # who likes a post: LIKERS_PAGE("ada", 7)
TAG_PAGE = PageKind("tag")  # by tag_key()
PEOPLE_PAGE = PageKind("people")  # everyone
TAGS_PAGE = PageKind("tags")  # those in use lately
SITE_PAGE = PageKind("site-page")  # SITE_PAGE("rules")
ATOM = "application/atom+xml; charset=utf-8"
SITEMAP = PageKind("sitemap", "application/xml; charset=utf-8")  # no post drops it: it may be CACHE_TTL old
LATEST_FEED = PageKind("feed", ATOM)
PROFILE_FEED = PageKind("user-feed", ATOM)
TAG_FEED = PageKind("tag-feed", ATOM)
ALL_POSTS = STAMP("posts")


def follows_by(user_id: int) -> str:
    """Return the stamp of whom a user follows."""
    return STAMP("follows", user_id)


def posts_by(user_id: int) -> str:
    """Return the stamp of what a user has published; it is new after each post, so a form can be told by it."""
    return STAMP("posts-by", user_id)


# Three stamps that nearly every page of a member is drawn under, so their names are made once.


@lru_cache(maxsize=1_000)
def likes_by(user_id: int) -> str:
    """Return the stamp of what a user likes; it holds Like.held()."""
    return STAMP("likes-by", user_id)


@lru_cache(maxsize=1_000)
def notifications_of(user_id: int) -> str:
    """Return the stamp of what a user is told; it holds news_of(): what the bar of every page shows them."""
    return STAMP("notifications", user_id)


@lru_cache(maxsize=1_000)
def hidden_from(user_id: int) -> str:
    """Return the stamp of whom a user does not see; it holds Block.held()."""
    return STAMP("hidden-from", user_id)


class Also(NamedTuple):
    """What a write does as well, in its own transaction: a line in a log, a notification.

    changes: the cached pages and stamps that this changes.
    """

    run: Callable[[], object] = lambda: None
    changes: Collection[str] = ()


NOTHING_ELSE = Also()


def rows_changed(statement: Executable) -> int:
    """Run an update or a delete in the current transaction; return how many rows it has changed.

    Objects that were loaded before stay as they are.
    """
    result = db.session.execute(statement, execution_options={"synchronize_session": False})
    return cast(CursorResult[Any], result).rowcount


@contextmanager
def write(*pages: str, removal: bool = False, counted_on: Collection[str] = ()) -> Iterator[None]:
    """Run a write, commit it, and drop the cached `pages` that it changes, as CACHE_STRATEGY says.

    pages: stamps are among them.
    removal: the write removes something. Under every strategy, the cache never serves the removed content again.
    counted_on: pages on which only a count changes; others may see the old one for up to COUNTS_LAG.

    Rolls back and raises what the body or the commit raises. Raises StoreUnavailableError, with nothing written, if
    the cache can't be told.
    """
    try:
        changing = current_cache().changing(*pages, removal=removal, counted_on=counted_on)
        with changing if pages else nullcontext():
            yield
            db.session.commit()
    except BaseException:
        db.session.rollback()
        raise
